"""One run, fully said: `Experiment`, its record and its overrides. Imports no JAX."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.adapters.config import AdapterConfig
from gesso.models.config import ModelConfig
from gesso.objectives.config import CausalLMConfig, ObjectiveConfig
from gesso.partitioning.config import HostsConfig, LayoutName, MeshConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    PhaseConfig,
    PrecisionConfig,
    StageConfig,
    StartConfig,
)
from gesso.settings.nearest import did_you_mean


class ExperimentError(ValueError):
    """An experiment that cannot run as asked. Nothing was touched; a restart will not help."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run. Written whole into every run folder and checkpoint.

    steps: optimizer updates. batch: rows per update, over the whole mesh. length: tokens a row
    predicts. microbatches: parts a batch is accumulated in, to save memory; it changes no result.
    phases: earlier parts of the run with rows and batches of their own (BERT's 128 tokens before
    512), in order; after the last one `length` and `batch` hold.
    trainable: patterns (fnmatch) over parameter names such as "blocks/attention/q"; "!embed" takes
    out; () = everything. first_layer: layers below it are frozen, in every stack; -1: all but the
    last. What is frozen has no gradient and no optimizer memory.
    stages: earlier parts of the run that train other parameters or at other rates, in order; after
    the last one `trainable`, `first_layer`, the learning rate and its schedule hold, and the
    schedule counts from there. start: what a new run begins with (docs/finetuning.md).
    adapter: what is trained beside the model, all of which is frozen but for what `trainable` names
    (docs/adapters.md).
    layout: which mesh axes split which dims (docs/alphabet.md). seed: parameters and dropout
    (the data has its own).
    """

    name: str
    model: ModelConfig
    objective: ObjectiveConfig = CausalLMConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: PrecisionConfig = PrecisionConfig()
    mesh: MeshConfig = MeshConfig()
    layout: LayoutName = "fsdp"
    hosts: HostsConfig = HostsConfig()
    steps: int = 100
    batch: int = 8
    length: int = 128
    microbatches: int = 1
    phases: tuple[PhaseConfig, ...] = ()
    trainable: tuple[str, ...] = ()
    first_layer: int = 0
    stages: tuple[StageConfig, ...] = ()
    adapter: AdapterConfig = AdapterConfig()
    start: StartConfig = StartConfig()
    seed: int = 0
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()


# What may differ when a run is continued: none of these changes which update a step makes.
MAY_CHANGE = (
    "mesh",
    "layout",
    "hosts",
    "microbatches",
    "checkpoint",
    "evaluation",
    "logging",
    "data.store",  # the order compares the store's fingerprint
    "data.prefetch",
    "data.wait_seconds",
    "data.skip",  # the order refuses a skip before the saved row
    "data.mixture.changes",  # the order refuses a change before the saved row
    "objective.chunk_tokens",
    "model.remat",
    "model.chunk_words",
    "model.unroll",
    "model.attention",
)


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The record of an experiment: nested dicts, lists and numbers, as json.dump writes them."""
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def from_json(record: Mapping[str, Any]) -> Experiment:
    """The experiment of a record. Raises ExperimentError naming the field that does not fit."""
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)
    # Records of before there were other families and objectives say neither.
    record = {
        **record,
        "model": {"family": "gpt", **record.get("model", {})},
        "objective": {"kind": "causal", **record.get("objective", {})},
    }
    try:
        return converter.structure(record, Experiment)
    except cattrs.BaseValidationError as error:
        problems = "; ".join(cattrs.transform_error(error, path="experiment"))
        raise ExperimentError(
            f"this record is not an experiment of this version: {problems}"
        ) from None


def fingerprint(experiment: Experiment) -> str:
    """sha256 (hex) of the record: equal on all hosts of one run."""
    return hashlib.sha256(json.dumps(to_json(experiment), sort_keys=True).encode()).hexdigest()


def override(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """`experiment` with {"optimizer.learning_rate": 3e-4, ...} put in place.

    Raises ExperimentError for a name that is no field, with the nearest one.
    """
    for path, value in overrides.items():
        experiment = _replace(experiment, path.split("."), value, path)
    return experiment


def _replace(config: Any, path: list[str], value: Any, whole: str) -> Any:
    names = (
        [f.name for f in dataclasses.fields(config)]
        if hasattr(config, "__dataclass_fields__")
        else []
    )
    head, *rest = path
    if head not in names:
        hint = did_you_mean(head, names, otherwise=f"known: {', '.join(names)}")
        raise ExperimentError(
            f"no setting {whole!r}: {type(config).__name__} has no {head!r}{hint}"
        )
    if rest:
        value = _replace(getattr(config, head), rest, value, whole)
    return dataclasses.replace(config, **{head: value})


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"b1": .9}} -> {"optimizer.b1": .9}; empty dicts stay values."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{setting: (stored, asked)} of two records, without the settings that may change."""
    old, new = flatten(stored), flatten(asked)
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)
    }
