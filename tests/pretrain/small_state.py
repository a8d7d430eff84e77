"""A training state of a few kilobytes, sharded over whatever mesh it is asked for."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_SPECS = {"table": P("fsdp", None), "kernel": P("fsdp", "tensor"), "scale": P(), "step": P()}


def mesh_of(fsdp: int, tensor: int) -> Mesh:
    """A mesh over the first fsdp x tensor devices."""
    devices = np.array(jax.devices()[: math.prod((fsdp, tensor))])
    return Mesh(devices.reshape(fsdp, tensor), ("fsdp", "tensor"))


def arrays_of(step: int) -> dict[str, Any]:
    """The state's content as numpy arrays; differs at every step in every leaf."""
    random = np.random.default_rng(step)
    params = {
        "table": random.standard_normal((32, 8)).astype(np.float32),
        "blocks": {
            "kernel": random.standard_normal((8, 16)).astype(jnp.bfloat16),
            "scale": random.standard_normal(8).astype(np.float32),
        },
    }
    moments = jax.tree.map(lambda x: (x * 2).astype(np.float32), params)
    return {"params": params, "opt_state": ({"mu": moments}, ()), "step": np.int32(step)}


def abstract_on(mesh: Mesh) -> Any:
    """The state as jax.ShapeDtypeStructs laid out on `mesh`."""

    def placed(path: Any, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, _spec(path)))

    return jax.tree.map_with_path(placed, arrays_of(0))


def state_on(mesh: Mesh, step: int) -> Any:
    """The state after `step` updates on `mesh`, which may span processes."""
    return jax.tree.map(
        lambda x, shape: jax.make_array_from_callback(
            x.shape, shape.sharding, lambda index: np.asarray(x[index])
        ),
        arrays_of(step),
        abstract_on(mesh),
    )


def assert_is(state: Any, step: int) -> None:
    """Every addressable part of `state` holds exactly what it held after `step` updates."""
    expected = jax.tree.leaves(arrays_of(step))
    for x, want in zip(jax.tree.leaves(state), expected, strict=True):
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), want[shard.index])


def _spec(path: Any) -> P:
    return _SPECS[path[-1].key]
