"""Where a run's first parameters come from when its folder holds imported ones.

A folder made by `gesso import` has a checkpoint 0 of parameters alone: the optimizer that goes with
them is chosen when training starts.
"""

import warnings
from pathlib import Path
from typing import Any

import jax

from partitioning.axes import partition, placements
from pretrain.checkpoint import load_params
from pretrain.experiment import ExperimentError
from pretrain.manifest import ManifestDamaged, read
from pretrain.setup import Setup
from pretrain.state import State, begun, carry_of
from pretrain.step_folders import complete_steps

IMPORTED = "imported"


def has_imported(checkpoints: Path) -> bool:
    """Whether the only checkpoint there is was imported, and no update has been made since."""
    if complete_steps(checkpoints) != [0]:
        return False
    try:
        return IMPORTED in read(checkpoints / "0").info
    except ManifestDamaged:
        return False  # restoring it says what is wrong


def imported_state(s: Setup, checkpoints: Path) -> State:
    """The state before the first update: imported parameters, laid out on the mesh, a fresh
    optimizer. Raises ExperimentError for a store of another tokenizer, ValueError as load_params.
    """
    whole, info = load_params(checkpoints, abstract_whole(s))
    if info["tokenizer"] != s.tokenizer.fingerprint:
        raise ExperimentError(
            f"the store {s.experiment.data.store} was made with another tokenizer than the imported"
            f" model; build it with --tokenizer {checkpoints.parent / 'tokenizer'}"
        )
    return state_of(s, whole)


def abstract_whole(s: Setup) -> Any:
    """All the model's parameters, in the run's dtype, with their shardings."""
    shardings = placements(s.model.letters, s.layout.at_rest, s.mesh)
    shapes = jax.eval_shape(s.model.init, jax.random.key(0))
    dtype = s.experiment.precision.params
    return jax.tree.map(
        lambda x, each: jax.ShapeDtypeStruct(x.shape, dtype, sharding=each), shapes, shardings
    )


def state_of(s: Setup, whole: Any) -> State:
    """The state before the first update of a run that begins with these parameters, which it
    takes over. The optimizer is fresh."""
    e = s.experiment
    begin = begun(s.model, s.optimizer, carry=carry_of(s.objective), rows=e.batch, parts=s.parts)
    donated = () if s.mesh.devices.flat[0].platform == "cpu" else (0,)
    shardings = jax.tree.map(lambda x: x.sharding, s.abstract)
    with partition(s.mesh, s.layout), warnings.catch_warnings():
        # Stacks of layers that are cut in two cannot be taken over in place.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        made = jax.jit(begin, out_shardings=shardings, donate_argnums=donated)
        return made(whole, jax.random.key(e.seed))
