"""Run folders made of adapters: a base with an adapter merged into it, an adapter over a base."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gesso.export.files.folder import new_folder
from gesso.finetune.adapters.peft_folder import read_adapter
from gesso.models import build
from gesso.models.adapters.adapters import adapter_problems
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import merge
from gesso.pretrain.checkpoints.checkpoints import Checkpoints, load_params
from gesso.pretrain.config import CheckpointConfig, StartConfig
from gesso.pretrain.experiment import Experiment, ExperimentError, to_json
from gesso.pretrain.folder.claim import environment, read_experiment, versions
from gesso.pretrain.open import open_run
from gesso.pretrain.origins.adapter import digest, whole_base
from gesso.pretrain.origins.sources import open_source
from gesso.pretrain.start import IMPORTED
from gesso.storage.files import write_json

ROUNDED = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class MergedRun:
    """step: of the adapter. changed: weights it changes. lost: the share of these changes that each
    dtype rounds away."""

    folder: Path
    step: int
    changed: int
    lost: dict[str, float]


def merge_run(run: Path, new: Path, *, base: str = "", step: int | None = None) -> MergedRun:
    """A run folder whose model is the base with the adapter in it, in float32.

    It generates, evaluates, exports and trains on as an imported one does. Raises ExperimentError
    for a run without an adapter, or with one that is no change of weights.
    """
    experiment, trained, info = adapter_of(run, step=step)
    model = build(experiment.model)
    whole = whole_base(experiment, model, trained, info, base=base)
    whole = jax.tree.map(lambda x: np.asarray(x, np.float32), whole)
    found = {
        dtype: merge(whole, trained["adapter"], experiment.adapter, model.letters, dtype)
        for dtype in ROUNDED
    }
    plain = dataclasses.replace(
        experiment,
        name=f"{experiment.name}-merged",
        adapter=AdapterConfig(),
        trainable=(),
        start=StartConfig(),
    )
    _make(new, run, plain, found["float32"].params, {"tokenizer": info["tokenizer"]})
    return MergedRun(
        folder=new,
        step=info["step"],
        changed=sum(found["float32"].changed.values()),
        lost={dtype: each.lost_share for dtype, each in found.items()},
    )


def take_adapter(folder: Path, base: str, new: Path) -> Experiment:
    """A run folder of a PEFT folder's adapter over the run `base`: to evaluate, merge or train on.
    Returns its experiment. Raises FolderError, ExperimentError."""
    source = open_source(base, setting="--base")
    model = build(source.experiment.model)
    read = read_adapter(folder, model)
    if problems := adapter_problems(read.config, model.config, model.letters):
        raise ExperimentError(f"{folder}: {'; '.join(problems)}")
    start = StartConfig(source=str(source.folder))
    experiment = dataclasses.replace(
        source.experiment,
        name=f"imported-{read.config.kind}",
        adapter=read.config,
        trainable=(),
        stages=(),
        phases=(),
        first_layer=0,
        start=start,
        length=min(
            source.experiment.length,
            (source.experiment.model.longest or 10**9) - read.config.front,
        ),
    )
    frozen = open_run(source.run, step=source.step).params
    kept = {"fingerprint": digest(frozen), "start": dataclasses.asdict(start)}
    info = {"tokenizer": source.tokenizer, "base": kept}
    adapter = jax.tree.map(lambda x: np.asarray(x, np.float32), read.adapter)
    _make(new, source.run, experiment, {"adapter": adapter}, info)
    return experiment


def adapter_of(
    run: Path, *, step: int | None = None
) -> tuple[Experiment, dict[str, Any], dict[str, Any]]:
    """(experiment, trained tree, info) of a run that trained an adapter. Raises ExperimentError
    for any other run."""
    experiment = read_experiment(run)
    if experiment.adapter.kind == "none":
        raise ExperimentError(
            f"{run} trained no adapter ({experiment.name}); train one: gesso finetune debug-lora"
            f" --start {run}"
        )
    return experiment, *load_params(run / "checkpoints", step=step)


def _make(
    new: Path, like: Path, experiment: Experiment, params: Any, info: Mapping[str, Any]
) -> None:
    """A run folder with a checkpoint 0 of these parameters, and the tokenizer of the run `like`."""
    with new_folder(new, mine=lambda folder: False) as part:
        write_json(part / "experiment.json", to_json(experiment))
        write_json(part / "environment.json", environment(jax.devices(), 1))
        shutil.copytree(like / "tokenizer", part / "tokenizer")
        about = {IMPORTED: True, "experiment": to_json(experiment), "environment": versions()}
        checkpoints = Checkpoints(part / "checkpoints", CheckpointConfig(), log=lambda text: None)
        try:
            arrays = jax.tree.map(jax.numpy.asarray, params)
            checkpoints.save(0, {"params": arrays}, about | dict(info))
        finally:
            checkpoints.close()
        shutil.rmtree(part / "checkpoints" / "0.writing", ignore_errors=True)
