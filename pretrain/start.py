"""Where a run begins, and what its checkpoints hold so that it can go on from them.

The one place that decides: resume > start > imported > scratch. A folder made by `gesso import` has
a checkpoint 0 of parameters alone: the optimizer that goes with them is chosen when training
starts. A run that trains an adapter keeps the frozen parameters out of its checkpoints: they stay
in the run it started from, and each checkpoint has their fingerprint.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from gesso.models.trees import flat
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.checkpoints.manifest import Info, ManifestDamaged, read
from gesso.pretrain.checkpoints.step_folders import candidates, complete_steps
from gesso.pretrain.experiment import Experiment, ExperimentError, to_json
from gesso.pretrain.folder.claim import versions
from gesso.pretrain.initial import (
    abstract_params,
    fresh_state,
    params_from_import,
    state_from,
    warm_state,
)
from gesso.pretrain.origins.adapter import digest
from gesso.pretrain.origins.parameters import WarmStart, warm_start_of
from gesso.pretrain.phases import phase_ends, phase_of_update
from gesso.pretrain.setup import Setup
from gesso.pretrain.state import Position, State

IMPORTED = "imported"
LOG = logging.getLogger("gesso")

Start = Literal["resume", "start", "imported", "scratch"]


def choose_start(s: Setup, checkpoints: Path) -> Start:
    """What a run with these checkpoints of its own begins with. Raises ExperimentError where both
    imported parameters and a source are named, and for an adapter over nothing."""
    named = s.experiment.start.has_source
    adapter = s.parts.frozen_saved == "elsewhere"
    if adapter and not named:
        raise ExperimentError(
            "an adapter is trained over another run's parameters; say which: gesso finetune"
            f" {s.experiment.name} --start RUN (gesso import makes one of a published checkpoint)"
        )
    if has_imported(checkpoints):
        if named and not adapter:
            raise ExperimentError(
                f"{checkpoints.parent} holds imported parameters, and start names others; use"
                " another --folder"
            )
        return "imported"
    if candidates(checkpoints, None) or any(checkpoints.glob("rejected-*")):
        return "resume"
    return "start" if named else "scratch"


def has_imported(checkpoints: Path) -> bool:
    """Whether the only checkpoint there is was imported, and no update has been made since."""
    if complete_steps(checkpoints) != [0]:
        return False
    try:
        return IMPORTED in read(checkpoints / "0").info
    except ManifestDamaged:
        return False  # restoring it says what is wrong


def find_warm_start(s: Setup) -> WarmStart:
    """Which source each parameter of the run comes from; reads no array. Raises ExperimentError."""
    shapes = {name: x.shape for name, x in flat(abstract_params(s)).items()}
    return warm_start_of(s.experiment, s.model.letters, shapes, s.tokenizer)


def initial_position(
    setups: Sequence[Setup],
    checkpoints: Checkpoints,
    *,
    folder: Path,
    start: Start,
    warm_start: WarmStart | None,
    progress: Callable[[str], None],
) -> Position:
    """The newest complete checkpoint's state, step and next row, or those of the first update.

    setups: one per phase or stage. folder: the run's. start: as `choose_start` says; warm_start:
    for "start" alone.
    Raises what Checkpoints.restore and the data order raise, ExperimentError.
    """
    first, e = setups[0], setups[-1].experiment
    progress("restore")
    if start == "imported":
        LOG.info("starting from the imported parameters in %s", folder)
        return Position(state=state_from_import(first, folder / "checkpoints"), step=0, next_row=0)

    def abstract_at(step: int) -> State:
        """The state as a checkpoint after `step` updates has it."""
        setup = setups[phase_of_update(e, min(step, e.steps))]
        return checkpoint_state(setup, setup.abstract)

    # Asked where there is nothing to resume, too: it makes sure that checkpoints can be written.
    restored = checkpoints.restore(abstract_at)
    if restored is not None:
        phase = phase_of_update(e, min(restored.step, e.steps))
        next_row = setups[phase].order.resume(restored.info["data"])
        if restored.step == phase_ends(e)[phase] < e.steps and not e.stages:
            next_row = 0  # the next phase reads the corpus from its first row
        LOG.info("continuing after step %d, row %d", restored.step, next_row)
        state = add_base(setups[phase], restored.state, restored.info)
        return Position(state=state, step=restored.step, next_row=next_row)
    if warm_start is not None:
        return Position(state=warm_state(first, warm_start), step=0, next_row=0)
    progress("compile")
    return Position(state=fresh_state(first), step=0, next_row=0)


def state_from_import(s: Setup, checkpoints: Path) -> State:
    """The state before the first update: imported parameters, laid out on the mesh, a fresh
    optimizer. Of an adapter, over the parameters that it was made for. Raises ExperimentError for a
    store of another tokenizer, ValueError as load_params.
    """
    params, info = params_from_import(s, checkpoints)
    if s.parts.frozen_saved == "checkpoint":
        return state_from(s, params)
    state = warm_state(s, find_warm_start(s)) | {"params": params}
    return add_base(s, checkpoint_state(s, state), info)


def checkpoint_state(s: Setup, state: State) -> State:
    """What a checkpoint holds of a state."""
    if s.parts.frozen_saved == "checkpoint":
        return state
    return {name: each for name, each in state.items() if name != "frozen"}


def base_record(s: Setup, state: State) -> Info:
    """What a checkpoint without its frozen parameters says of them; {} of one that has them."""
    if s.parts.frozen_saved == "checkpoint":
        return {}
    start = dataclasses.asdict(s.experiment.start)
    return {"base": {"fingerprint": digest(state["frozen"]), "start": start}}


def add_base(s: Setup, state: State, info: Info) -> State:
    """A restored state with the frozen parameters that its checkpoint lacks, made as at the start.
    Raises ExperimentError when they are not those it was trained over."""
    if s.parts.frozen_saved == "checkpoint":
        return state
    whole = state | {"frozen": warm_state(s, find_warm_start(s))["frozen"]}
    if base_record(s, whole)["base"]["fingerprint"] != info["base"]["fingerprint"]:
        start = s.experiment.start
        raise ExperimentError(
            f"{start.source or start.encoder} is not what this run was trained over: its parameters"
            " have changed; name the checkpoint it began with (--start.source RUN/checkpoints/STEP)"
        )
    return whole


class Saver:
    """Saves the states of a run, with what a later start needs to know of data and experiment."""

    def __init__(self, checkpoints: Checkpoints, experiment: Experiment) -> None:
        self._checkpoints, self._experiment = checkpoints, experiment
        self._base: Info = {}

    def save(self, s: Setup, step: int, state: State, next_row: int) -> None:
        """Start to save `state` after `step` updates; s: of the phase under way."""
        if not self._base:  # one pass over the frozen parameters, which never change
            self._base = base_record(s, state)
        info = {
            "data": s.order.state(next_row),
            "experiment": to_json(self._experiment),
            "environment": versions(),
            "tokenizer": s.tokenizer.fingerprint,
        }
        self._checkpoints.save(step, checkpoint_state(s, state), info | self._base)
