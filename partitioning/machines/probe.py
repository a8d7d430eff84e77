"""How fast each device of this process is, measured: the same products on all of them."""

import time

import jax
import jax.numpy as jnp


def time_devices() -> list[float]:
    """Seconds that each of this process's devices takes for the same products, one after the
    other: a device much slower than the rest (hot, throttled, shared) slows every step of a run."""
    size = 128 if jax.local_devices()[0].platform == "cpu" else 4096

    @jax.jit
    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 16, lambda _, y: (y @ x) / size, x)

    found = []
    for device in jax.local_devices():
        x = jax.device_put(jnp.ones((size, size), jnp.bfloat16), device)
        products(x).block_until_ready()  # compiles
        began = time.perf_counter()
        products(x).block_until_ready()
        found.append(time.perf_counter() - began)
    return found
