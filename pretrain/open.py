"""Open a finished or running run for use: its experiment, model, parameters and tokenizer."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso.data.embedded.corpus import ensure_store
from gesso.data.open import open_store
from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer
from gesso.models import build
from gesso.models.model import Model, Params
from gesso.models.trees import flat
from gesso.pretrain.checkpoints.checkpoints import load_params
from gesso.pretrain.checkpoints.manifest import Info
from gesso.pretrain.checkpoints.streamed import StoredParams
from gesso.pretrain.experiment import Experiment
from gesso.pretrain.folder.claim import read_experiment
from gesso.pretrain.origins.adapter import with_adapter


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run's model as of `step` updates; `params` are numpy arrays, no device holds them yet."""

    experiment: Experiment
    model: Model
    params: Any
    tokenizer: Tokenizer
    step: int

    def store(self) -> Store:
        """The token store the run was trained on."""
        return store_of(self.experiment)


def open_run(folder: str | os.PathLike[str], *, step: int | None = None, base: str = "") -> OpenRun:
    """Read a run folder; `step`: a checkpoint's, the newest whole one by default.

    Of a run that trained an adapter, the model with it, whose positions are those that virtual
    tokens leave; base: where the run is that it was trained over, if that was moved.

    Raises ValueError when the folder is not a run, has no checkpoint (yet), or its tokenizer is not
    the one the checkpoint was trained with.
    """
    folder = Path(folder)
    experiment = read_experiment(folder)
    params, info = load_params(folder / "checkpoints", step=step)
    if experiment.adapter.kind != "none":
        params = with_adapter(experiment, build(experiment.model), params, info, base=base)
        if front := experiment.adapter.front:
            experiment = _shorten(experiment, front)
    return _open(folder, experiment, params, info)


def open_stored(folder: str | os.PathLike[str], *, step: int | None = None) -> OpenRun:
    """`open_run`, but `params` are pretrain.checkpoints.streamed.StoredParams, read when they are
    asked for; what it gives for a checkpoint that does not hold the model's parameters as they
    are."""
    folder = Path(folder)
    experiment = read_experiment(folder)
    stored = StoredParams(folder / "checkpoints", step)
    if set(stored.names) != set(flat(build(experiment.model).letters)):
        return open_run(folder, step=step)
    return _open(folder, experiment, stored, stored.info)


def _shorten(experiment: Experiment, front: int) -> Experiment:
    """The model that text sees: the table of positions is whole, its first rows are taken."""
    model: Any = experiment.model
    left = dataclasses.replace(model, positions=model.positions - front)
    return dataclasses.replace(experiment, model=left)


def _open(
    folder: Path, experiment: Experiment, params: Params | StoredParams, info: Info
) -> OpenRun:
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != info["tokenizer"]:
        raise ValueError(
            f"{folder / 'tokenizer'} has fingerprint {tokenizer.fingerprint[:12]}, but the"
            f" checkpoint was trained with {info['tokenizer'][:12]}; put the original one back"
        )
    return OpenRun(
        experiment=experiment,
        model=build(experiment.model),
        params=params,
        tokenizer=tokenizer,
        step=info["step"],
    )


def store_of(experiment: Experiment) -> Store:
    """The token store an experiment reads; an embedded corpus is made where it is not there yet."""
    return open_store(ensure_store(experiment.data.store))
