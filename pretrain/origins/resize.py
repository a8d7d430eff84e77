"""A parameter with more or fewer rows of the vocabulary and of positions than it was saved with."""

import jax
import jax.numpy as jnp


def resize(x: jax.Array, shape: tuple[int, ...], letters: str, known: int) -> jax.Array:
    """`x` with more or fewer rows of the vocabulary (V) and of positions (S). Further ids begin as
    the mean of those the tokenizer has, so that none is likelier than an average token; further
    positions repeat the first ones."""
    for axis, (letter, size) in enumerate(zip(letters, shape, strict=True)):
        rows = jnp.moveaxis(x, axis, 0)
        had = rows.shape[0]
        if size < had:
            rows = rows[:size]
        elif size > had and letter == "V":
            mean = rows[: min(known, had)].mean(0, dtype=jnp.float32).astype(rows.dtype)
            rows = jnp.concatenate([rows, jnp.broadcast_to(mean, (size - had, *rows.shape[1:]))])
        elif size > had:
            rows = rows[jnp.arange(size) % had]
        x = jnp.moveaxis(rows, 0, axis)
    return x
