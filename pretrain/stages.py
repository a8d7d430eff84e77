"""From one stage of a run to the next: other parameters are trained, and none of them changes."""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath

from gesso.partitioning.axes import partition
from gesso.pretrain.setup import Setup
from gesso.pretrain.state import State, make_init_from


def next_stage(old: Setup, new: Setup, state: State) -> State:
    """The state as the next stage trains it, laid out on its mesh.

    Every parameter has the bits it had. What was trained before and still is keeps its moments and
    the count of its updates; what begins to be trained has fresh ones; what no longer is loses
    them. The schedule of the learning rate begins anew.
    """
    init = make_init_from(new.model, new.optimizer, parts=new.parts)

    def move(state: State) -> State:
        whole = old.parts.whole(state["params"], state.get("frozen", {}))
        made = init(whole, jax.random.key(0)) | {"step": state["step"]}
        made["opt_state"] = keep_moments(made["opt_state"], state["opt_state"])
        return made | ({"carry": state["carry"]} if "carry" in state else {})

    shardings = jax.tree.map(lambda x: x.sharding, new.abstract)
    with partition(new.mesh, new.layout):
        return jax.jit(move, out_shardings=shardings)(state)


def keep_moments(fresh: optax.OptState, before: optax.OptState) -> optax.OptState:
    """`fresh` optimizer state with what `before` has of the same parameters. Of layers cut in two
    an array holds the uppermost."""
    known = {_place(path): leaf for path, leaf in jax.tree.leaves_with_path(before)}

    def keep(path: KeyPath, new: jax.Array) -> jax.Array:
        place = _place(path)
        of_a_parameter = any(isinstance(key, jax.tree_util.DictKey) for key in path)
        if not of_a_parameter or place not in known:
            return new
        old = known[place]
        if old.shape == new.shape:
            return old
        layers, had = new.shape[0], old.shape[0]
        return old[had - layers :] if had > layers else jnp.concatenate([new[: layers - had], old])

    return jax.tree.map_with_path(keep, fresh)


def _place(path: KeyPath) -> str:
    return jax.tree_util.keystr(path)
