"""The training state {"params", "opt_state", "step"}: its shapes, its placement, its birth."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.model import Model
from partitioning.axes import Layout, partition, placements

State = dict[str, Any]


def make_init(model: Model, optimizer: optax.GradientTransformation, *, dtype: str) -> Any:
    """key -> State with parameters in `dtype`; traceable."""

    def init(key: jax.Array) -> State:
        params = jax.tree.map(lambda x: x.astype(dtype), model.init(key))
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}

    return init


def state_shardings(model: Model, abstract: State, mesh: Mesh, layout: Layout) -> State:
    """The state's tree of NamedShardings. What the optimizer keeps per parameter in that
    parameter's shape lies where the parameter lies; everything else is on every device."""
    params = placements(model.letters, layout.at_rest, mesh)
    everywhere = NamedSharding(mesh, P())
    placed = {
        _names(path): (param.shape, sharding)
        for (path, param), sharding in zip(
            jax.tree.leaves_with_path(abstract["params"]), jax.tree.leaves(params), strict=True
        )
    }

    def like_its_parameter(path: Any, kept: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            shape, sharding = placed.get(names[start:], (None, everywhere))
            if shape == kept.shape:
                return sharding
        return everywhere

    opt_state = jax.tree.map_with_path(like_its_parameter, abstract["opt_state"])
    return {"params": params, "opt_state": opt_state, "step": everywhere}


def _names(path: Any) -> tuple[str, ...]:
    """The dict keys of a tree path: ("blocks", "attention", "q") for a parameter."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def abstract_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    layout: Layout,
    dtype: str = "float32",
) -> State:
    """The state as jax.ShapeDtypeStructs that carry their shardings; no memory is taken."""
    shapes = jax.eval_shape(make_init(model, optimizer, dtype=dtype), jax.random.key(0))
    shardings = state_shardings(model, shapes, mesh, layout)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    layout: Layout,
    dtype: str = "float32",
) -> State:
    """A fresh state, born where it lives: no device ever holds more than its part.

    The bits depend on the seed alone, not on the mesh or the layout.
    """
    abstract = abstract_state(model, optimizer, mesh=mesh, layout=layout, dtype=dtype)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    with partition(mesh, layout):
        init = jax.jit(make_init(model, optimizer, dtype=dtype), out_shardings=shardings)
        return init(jax.random.key(seed))
