"""Where a run's first parameters come from when its folder holds imported ones.

A folder made by `gesso import` has a checkpoint 0 of parameters alone: the optimizer that goes with
them is chosen when training starts.
"""

import functools
from pathlib import Path
from typing import Any

import jax

from pretrain.checkpoint import load_params
from pretrain.experiment import ExperimentError
from pretrain.manifest import ManifestDamaged, read
from pretrain.setup import Setup
from pretrain.state import State
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
    params, info = load_params(checkpoints, s.abstract["params"])
    if info["tokenizer"] != s.tokenizer.fingerprint:
        raise ExperimentError(
            f"the store {s.experiment.data.store} was made with another tokenizer than the imported"
            f" model; build it with --tokenizer {checkpoints.parent / 'tokenizer'}"
        )
    rest: dict[str, Any] = {name: each for name, each in s.abstract.items() if name != "params"}
    shardings = jax.tree.map(lambda x: x.sharding, rest)

    @functools.partial(jax.jit, out_shardings=shardings)
    def fresh(params: Any) -> Any:
        made = {"opt_state": s.optimizer.init(params), "step": jax.numpy.int32(0)}
        if "carry" in rest:
            made["carry"] = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), rest["carry"])
        return made

    return {"params": params, **fresh(params)}
