"""A run as one value: `Experiment`, its record and its overrides. Imports no JAX."""

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
from gesso.models.families import FAMILIES, family
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

# An experiment as JSON: nested dicts, lists and numbers.
Record = Mapping[str, Any]


class ExperimentError(ValueError):
    """An experiment that cannot run as asked. Nothing was touched; a restart will not help."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run, written whole into every run folder and checkpoint."""

    name: str
    """Name of the experiment; the run folder is runs/NAME unless --folder says otherwise."""
    model: ModelConfig
    """The model's family and shape."""
    objective: ObjectiveConfig = CausalLMConfig()
    """What is predicted, and how its loss is weighed."""
    data: DataConfig = DataConfig()
    """The token store and the order of its rows."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer, its learning rate and its schedule."""
    precision: PrecisionConfig = PrecisionConfig()
    """The dtypes of parameters and of arithmetic."""
    mesh: MeshConfig = MeshConfig()
    """How many ways each mesh axis splits the devices."""
    layout: LayoutName = "fsdp"
    """How the mesh splits parameters and optimizer state. See docs/alphabet.md."""
    hosts: HostsConfig = HostsConfig()
    """How a run's processes find each other, and their time limits."""
    steps: int = 100
    """Updates of the whole run."""
    batch: int = 8
    """Rows per update, over the whole mesh."""
    length: int = 128
    """Tokens that a row predicts."""
    microbatches: int = 1
    """Parts that a batch is accumulated in, to save memory; it changes no result."""
    phases: tuple[PhaseConfig, ...] = ()
    """Earlier parts of the run with rows and batches of their own, in order (BERT's 128 tokens
    before 512); after the last one `length` and `batch` hold."""
    trainable: tuple[str, ...] = ()
    """Trained parameters, as patterns (fnmatch) over their names; () = all. Names are such as
    "blocks/attention/q"; "!embed" takes out. A frozen parameter has no gradient and no optimizer
    memory."""
    first_layer: int = 0
    """First trained layer, in every stack; those below it are frozen. -1 = the last layer only, -4
    = the four uppermost."""
    stages: tuple[StageConfig, ...] = ()
    """Earlier parts of the run that train other parameters or at other rates, in order. After the
    last one `trainable`, `first_layer`, the learning rate and its schedule hold, and the schedule
    counts from there."""
    adapter: AdapterConfig = AdapterConfig()
    """A small trained addition to a frozen model (docs/adapters.md). What `trainable` names is
    trained beside it."""
    start: StartConfig = StartConfig()
    """The run or checkpoint that a new run starts from. See docs/finetuning.md."""
    seed: int = 0
    """Seed of parameters and dropout; the data has its own."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save, and what to keep."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out loss, samples and tasks during training."""
    logging: LoggingConfig = LoggingConfig()
    """Where a run's metrics go, and how often."""


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


def from_json(record: Record) -> Experiment:
    """The experiment of a record. Raises ExperimentError naming the field that does not fit."""
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)
    # Records of before there were other families and objectives say neither.
    record = {
        **record,
        "model": {"family": "gpt", **record.get("model", {})},
        "objective": {"kind": "causal", **record.get("objective", {})},
    }
    named = record["model"]["family"]
    if named not in FAMILIES:  # the union of our configs does not have another package's
        theirs = family(named).config_class()
        converter.register_structure_hook(
            ModelConfig, lambda value, _: converter.structure(value, theirs)
        )
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


def override(experiment: Experiment, overrides: Record) -> Experiment:
    """`experiment` with {"optimizer.learning_rate": 3e-4, ...} put in place.

    Raises ExperimentError for an unknown name, with the nearest one.
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


def flatten(record: Record, prefix: str = "") -> dict[str, object]:
    """{"optimizer": {"b1": .9}} -> {"optimizer.b1": .9}; empty dicts stay values."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(stored: Record, asked: Record) -> dict[str, tuple[object, object]]:
    """{setting: (stored, asked)} of two records, without the settings that may change."""
    old, new = flatten(stored), flatten(asked)
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)
    }
