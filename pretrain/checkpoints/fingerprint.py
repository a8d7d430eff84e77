"""A fingerprint of every array of a tree, computed where the array lies, equal on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gesso.models.model import Params
from gesso.partitioning.mesh import settle

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def leaf_name(path: jax.tree_util.KeyPath) -> str:
    """A tree path as a name: "params/blocks/attention/q", "opt_state/0/mu/table"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def start_fingerprints(tree: Params) -> dict[str, jax.Array]:
    """{leaf name: u32[2]}, still being computed; `tree` may be donated right afterwards.

    Two sums modulo 2^32 over all elements, of a mix of the element's bits with its row-major
    index. Such sums do not depend on the order they are taken in, so the same content gives the
    same fingerprint on any mesh, split and process count, and a changed bit or a moved block gives
    another. One pass over the arrays.
    """
    return {leaf_name(path): settle(_fingerprint(x)) for path, x in jax.tree.leaves_with_path(tree)}


def fingerprints(tree: Params) -> dict[str, str]:
    """{leaf name: 16 hex digits}; waits for the result."""
    return read_fingerprints(start_fingerprints(tree))


def read_fingerprints(started: dict[str, jax.Array]) -> dict[str, str]:
    """The hex digits of what `start_fingerprints` began; waits for it."""
    return {name: _hex(sums) for name, sums in jax.device_get(started).items()}


def host_fingerprint(x: np.ndarray) -> str:
    """The same of one array in host memory (elements of at most 4 bytes), of which no more than a
    block is copied."""
    assert x.dtype.itemsize <= 4
    flat, total = x.reshape(-1), np.zeros(2, np.uint32)
    for at in range(0, flat.size, _BLOCK):
        total += np.asarray(_sums(flat[at : at + _BLOCK], np.uint32(at & 0xFFFFFFFF)))
    return _hex(total)


@jax.jit
def _fingerprint(x: jax.Array) -> jax.Array:
    return _sums(x, jnp.uint32(0))


@jax.jit
def _sums(x: jax.Array, first: jax.Array) -> jax.Array:
    """first: the index of the first element in the whole array."""
    bits = _bits(x)
    index, stride = jnp.full(bits.shape, first), 1
    for dim in reversed(range(bits.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
        index = index + along * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= bits.shape[dim]
    sums = [jnp.sum(_mix(bits, index + salt), dtype=jnp.uint32) for salt in _SALTS]
    return jnp.stack(sums)


_SALTS = (0, 0x51ED270B)
_BLOCK = 1 << 20  # elements: what a host copies of an array at once


def _hex(sums: np.ndarray) -> str:
    return "".join(f"{int(each):08x}" for each in sums)


def _bits(x: jax.Array) -> jax.Array:
    """The elements' bits as u32; 8-byte elements become two of them."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    return lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)


def _mix(bits: jax.Array, index: jax.Array) -> jax.Array:
    """Multiply-and-shift hashing (the constants of xxHash32): every bit reaches every bit."""
    index = index * jnp.uint32(0x9E3779B1)
    index = index ^ (index >> 15)
    bits = (bits ^ index) * jnp.uint32(0x85EBCA6B)
    bits = bits ^ (bits >> 13)
    bits = (bits + index) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
