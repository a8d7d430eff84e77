"""The training state: its shapes, sharding and initialization.

{"params", "opt_state", "step"}; "frozen" where not all of a model is trained
(pretrain/optimizer/trained.py), and "carry" where the objective carries something from batch to
batch (objectives/base.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from gesso.models.model import Model, Params
from gesso.partitioning.axes import Layout, partition, placements
from gesso.pretrain.optimizer.trained import Parts, everything

State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come. step: updates made. next_row: the row of the data order that the next
    update begins with."""

    state: State
    step: int
    next_row: int


def make_init(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    dtype: str,
    carry: Mapping[str, str] | None = None,
    rows: int = 0,
    parts: Parts | None = None,
) -> Callable[[jax.Array], State]:
    """key -> State with parameters in `dtype`; traceable. rows: those of a batch, for a carry."""
    init_from = make_init_from(model, optimizer, carry=carry, rows=rows, parts=parts)

    def init(key: jax.Array) -> State:
        return init_from(jax.tree.map(lambda x: x.astype(dtype), model.init(key)), key)

    return init


def make_init_from(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    carry: Mapping[str, str] | None = None,
    rows: int = 0,
    parts: Parts | None = None,
) -> Callable[[Params, jax.Array], State]:
    """(whole parameters, key) -> the State before the first update; traceable."""
    chosen = parts or everything(model.letters)

    def init_from(whole: Params, key: jax.Array) -> State:
        params, frozen = chosen.begin(whole, jax.random.fold_in(key, 1))
        state = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
        if chosen.frozen_letters:
            state["frozen"] = frozen
        if not carry:
            return state
        sizes = model.config.sizes | {"B": rows}
        shapes = {name: [sizes[each] for each in letters] for name, letters in carry.items()}
        return state | {"carry": {name: jnp.zeros(shape) for name, shape in shapes.items()}}

    return init_from


def state_shardings(
    model: Model,
    abstract: State,
    mesh: Mesh,
    layout: Layout,
    carry: Mapping[str, str] | None = None,
    parts: Parts | None = None,
) -> State:
    """The state's tree of NamedShardings. What the optimizer keeps per parameter in that
    parameter's shape lies where the parameter is updated, a carry where activations of its letters
    do; everything else is on every device."""
    chosen = parts or everything(model.letters)
    params = placements(chosen.letters, layout.at_rest, mesh)
    kept_for = placements(chosen.letters, layout.in_update, mesh)
    everywhere = NamedSharding(mesh, P())
    placed = {
        _names(path): (param.shape, sharding)
        for (path, param), sharding in zip(
            jax.tree.leaves_with_path(abstract["params"]), jax.tree.leaves(kept_for), strict=True
        )
    }

    def like_its_parameter(path: KeyPath, kept: jax.ShapeDtypeStruct) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            shape, sharding = placed.get(names[start:], (None, everywhere))
            if shape == kept.shape:
                return sharding
        return everywhere

    opt_state = jax.tree.map_with_path(like_its_parameter, abstract["opt_state"])
    state = {"params": params, "opt_state": opt_state, "step": everywhere}
    if chosen.frozen_letters:
        state["frozen"] = placements(chosen.frozen_letters, layout.at_rest, mesh)
    return state | {"carry": placements(dict(carry), layout.in_flight, mesh)} if carry else state


def _names(path: KeyPath) -> tuple[str, ...]:
    """The dict keys of a tree path: ("blocks", "attention", "q") for a parameter."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def abstract_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    layout: Layout,
    dtype: str = "float32",
    carry: Mapping[str, str] | None = None,
    rows: int = 0,
    parts: Parts | None = None,
) -> State:
    """The state as jax.ShapeDtypeStructs that carry their shardings; no memory is taken."""
    init = make_init(model, optimizer, dtype=dtype, carry=carry, rows=rows, parts=parts)
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(model, shapes, mesh, layout, carry, parts)
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
    carry: Mapping[str, str] | None = None,
    rows: int = 0,
    parts: Parts | None = None,
) -> State:
    """A fresh state, computed where it lies: no device ever holds more than its part.

    The bits depend on the seed alone, not on the mesh or the layout.
    """
    abstract = abstract_state(
        model,
        optimizer,
        mesh=mesh,
        layout=layout,
        dtype=dtype,
        carry=carry,
        rows=rows,
        parts=parts,
    )
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    with partition(mesh, layout):
        init = make_init(model, optimizer, dtype=dtype, carry=carry, rows=rows, parts=parts)
        return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))
