"""The device fingerprint: the same on every mesh, another for every change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from small_state import mesh_of

from gesso.pretrain.checkpoints.fingerprint import fingerprints, host_fingerprint


def sums_of(x):
    """The fingerprint computed another way: numpy, 64-bit integers, one modulo at the end."""
    bits = np.ascontiguousarray(x).reshape(-1).view(f"u{min(x.dtype.itemsize, 4)}")
    sums = []
    for salt in (0, 0x51ED270B):
        index = (np.arange(bits.size, dtype=np.uint64) + np.uint64(salt)) & 0xFFFFFFFF
        index = index * 0x9E3779B1 & 0xFFFFFFFF
        index ^= index >> 15
        mixed = (bits ^ index) * 0x85EBCA6B & 0xFFFFFFFF
        mixed ^= mixed >> 13
        mixed = (mixed + index) * 0xC2B2AE35 & 0xFFFFFFFF
        mixed ^= mixed >> 16
        sums.append(int(mixed.sum()) % 2**32)
    return f"{sums[0]:08x}{sums[1]:08x}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32", "uint8", "bool"])
def test_equals_the_sums_by_numpy(dtype):
    x = np.random.default_rng(0).integers(-9, 9, (13, 6)).astype(jnp.dtype(dtype))
    assert fingerprints({"x": jnp.asarray(x)}) == {"x": sums_of(x)}


@pytest.mark.parametrize("spec", [P(), P("fsdp"), P(None, "tensor"), P(("fsdp", "tensor"))])
@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 2)])
def test_same_on_every_mesh(shape, spec):
    x = np.random.default_rng(1).standard_normal((16, 24)).astype(np.float32)
    placed = jax.device_put(x, NamedSharding(mesh_of(*shape), spec))
    assert fingerprints([placed])["0"] == sums_of(x)


def test_every_flipped_bit_and_swapped_row_shows():
    x = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    seen = {fingerprints([jnp.asarray(x)])["0"]}
    changes = 0
    for element in range(0, 64, 3):
        for bit in range(0, 32, 5):
            changed = x.copy()
            changed.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
            seen.add(fingerprints([jnp.asarray(changed)])["0"])
            changes += 1
    seen.add(fingerprints([jnp.asarray(x[[1, 0, *range(2, 8)]])])["0"])
    assert len(seen) == changes + 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_arrays_in_host_memory_are_summed_by_blocks(dtype, monkeypatch):
    monkeypatch.setattr("gesso.pretrain.checkpoints.fingerprint._BLOCK", 32)
    for shape in ((13, 6), (64,), (2, 0), ()):
        x = np.random.default_rng(3).integers(-9, 9, shape).astype(jnp.dtype(dtype))
        assert host_fingerprint(x) == fingerprints({"x": jnp.asarray(x)})["x"]
