"""Dropout (https://jmlr.org/papers/v15/srivastava14a.html) whose random bits are cheap.

Bits are most of what dropout costs. `jax.random.bernoulli` spends a threefry hash of 64 bits on
every value; here one decides for four, with 16 bits each, in plain operations that compilers fuse
with what is around them.
"""

import math

import jax
import jax.numpy as jnp

_STEPS = 1 << 16  # a rate is a whole number of 1 / _STEPS
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a fraction `rate` of its values 0 and the others scaled up; no key, no dropout.

    rate: below 1, to the nearest 2^-16. The same values are 0 on any mesh.
    """
    dropped = round(rate * _STEPS)
    if key is None or dropped == 0:
        return x
    return jnp.where(_draw(key, x.shape, dropped), x / (1 - dropped / _STEPS), 0).astype(x.dtype)


def _draw(key: jax.Array, shape: tuple[int, ...], dropped: int) -> jax.Array:
    """bool: random u16 that are not below `dropped`. A hash has its four in the four quarters of
    the last axis, which hardly any layout splits."""
    *front, length = shape
    places = (*front, -(-length // 4))
    # What is hashed: the place on the first axis, and the place among the others.
    row = jax.lax.broadcasted_iota(jnp.uint32, places, 0)
    column = jnp.zeros(places, jnp.uint32)
    for axis in range(1, len(places)):
        stride = jnp.uint32(math.prod(places[axis + 1 :]))
        column += jax.lax.broadcasted_iota(jnp.uint32, places, axis) * stride
    words = _threefry(jax.random.bits(key, (2,), jnp.uint32), row, column)
    drawn = [half for word in words for half in (word & (_STEPS - 1), word >> 16)]
    return jnp.concatenate([each >= dropped for each in drawn], axis=-1)[..., :length]


def _threefry(key: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds, u32 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405).
    JAX's own is the same numbers, but on CPUs in loops that nothing is fused with."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = a + keys[0], b + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            a = a + b
            b = (b << rotation) | (b >> (32 - rotation))
            b = a ^ b
        a, b = a + keys[(i + 1) % 3], b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return a, b
