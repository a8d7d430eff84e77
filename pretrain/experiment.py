"""One run, fully said: `Experiment`, its record, overrides and one validation. Imports no JAX."""

import dataclasses
import hashlib
import json
import math
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


def validate(experiment: Experiment, *, devices: int, tokenizer_vocab: int | None = None) -> None:
    """Every check that needs no device, at once. Raises ExperimentError listing all that fails."""
    problems = [
        *_counts(experiment),
        *_phases(experiment),
        *_stages(experiment),
        *_start(experiment),
        *_adapter(experiment),
        *_streams(experiment),
        *_model(experiment, tokenizer_vocab),
        *_optimizer(experiment),
        *experiment.evaluation.problems(),
    ]
    try:
        sizes = experiment.mesh.sizes(devices)
    except ValueError as error:
        problems.append(str(error))
    else:
        problems += _mesh(experiment, sizes)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise ExperimentError(f"experiment {experiment.name!r} cannot run:{listed}")


def _counts(e: Experiment) -> list[str]:
    positive = {
        "steps": e.steps,
        "batch": e.batch,
        "length": e.length,
        "microbatches": e.microbatches,
        "logging.every_steps": e.logging.every_steps,
        "data.prefetch": e.data.prefetch,
        "checkpoint.keep_last": e.checkpoint.keep_last,
    }
    problems = [f"{name} must be at least 1, not {n}" for name, n in positive.items() if n < 1]
    if e.microbatches > 1 and e.batch % e.microbatches:
        problems.append(
            f"batch {e.batch} does not divide into {e.microbatches} microbatches;"
            f" try {_near(e.batch, e.microbatches)}"
        )
    return problems


def _phases(e: Experiment) -> list[str]:
    ends = [phase.until for phase in e.phases]
    if all(a < b for a, b in zip([0, *ends], [*ends, e.steps], strict=True)):
        return []
    return [f"phases end after updates {ends}: these must rise, from 1 to below steps {e.steps}"]


def _stages(e: Experiment) -> list[str]:
    if not e.stages:
        return []
    ends = [stage.until for stage in e.stages]
    problems = []
    if not all(a < b for a, b in zip([0, *ends], [*ends, e.steps], strict=True)):
        problems.append(
            f"stages end after updates {ends}: these must rise, from 1 to below steps {e.steps}"
        )
    if e.phases:
        problems.append("stages and phases in one run: leave out one; a stage keeps its rows")
    if e.optimizer.name in ("adafactor", "muon"):
        problems.append(
            f"optimizer {e.optimizer.name} has no rule for parameters that begin to be trained in"
            " the middle of a run; use adamw, adamw_bert, lion or adagrad with stages"
        )
    if any(stage.learning_rate < 0 for stage in e.stages):
        problems.append("a stage's learning_rate cannot be negative; 0 is the experiment's own")
    return problems


def _start(e: Experiment) -> list[str]:
    s = e.start
    problems = []
    if s.source and (s.encoder or s.decoder):
        problems.append(
            "start.source is of the whole model: give it, or start.encoder and .decoder"
        )
    if (s.encoder or s.decoder) and e.model.family != "encoder_decoder":
        problems.append(
            f"start.encoder and start.decoder are the sides of a model of the family"
            f" encoder_decoder, not of {e.model.family}: use start.source"
        )
    if not s.named and (s.rename or s.allow_changed):
        problems.append("start.rename and allow_changed have no effect without a source")
    for old, new in s.rename.items():
        if old.count("*") != new.count("*") or old.count("*") > 1:
            problems.append(f"start.rename {old!r} to {new!r}: one * in each, or none in both")
    return problems


def _adapter(e: Experiment) -> list[str]:
    problems = [*e.adapter.problems(), *e.adapter.misfits(e.model)]
    if e.adapter.kind == "none" or problems:
        return problems
    if e.stages or e.first_layer:
        problems.append("an adapter is trained whole: leave out stages and first_layer")
    longest = e.model.longest
    if longest is not None and e.length + e.adapter.front > longest:
        problems.append(
            f"length {e.length} and {e.adapter.front} virtual tokens in front of every document are"
            f" over the model's {longest} positions; lower --length or --adapter.tokens"
        )
    return problems


def _streams(e: Experiment) -> list[str]:
    carries = getattr(e.objective, "state", "reset") == "carried"
    problems = []
    if carries != (e.data.packing == "stream"):
        problems.append(
            f"data.packing {e.data.packing} and an objective that"
            f" {'carries its state on' if carries else 'starts every row anew'}: a carried state"
            " needs packing stream, and nothing else does"
        )
    if carries and e.phases:
        problems.append("phases: a state that is carried on has the rows of one batch size only")
    return problems


def _model(e: Experiment, tokenizer_vocab: int | None) -> list[str]:
    problems = [*e.model.problems(), *e.objective.problems()]
    if e.model.longest is not None and e.length > e.model.longest:
        problems.append(
            f"length {e.length} is over the model's {e.model.longest} positions;"
            f" lower --length or raise --model.positions"
        )
    if tokenizer_vocab is not None and tokenizer_vocab > e.model.vocab:
        problems.append(
            f"the store's tokenizer has {tokenizer_vocab} ids but the model's vocab is"
            f" {e.model.vocab}; set --model.vocab {tokenizer_vocab} or more"
        )
    return problems


def _optimizer(e: Experiment) -> list[str]:
    o, s = e.optimizer, e.optimizer.schedule
    problems = [
        f"optimizer.{name} must be in [0, 1), not {value}"
        for name, value in (("b1", o.b1), ("b2", o.b2))
        if not 0 <= value < 1
    ]
    if not (o.learning_rate > 0 and math.isfinite(o.learning_rate)):
        problems.append(f"optimizer.learning_rate must be positive, not {o.learning_rate}")
    if s.decay_steps and s.warmup_steps + s.decay_steps > e.steps and s.kind == "wsd":
        problems.append(
            f"warmup {s.warmup_steps} + decay {s.decay_steps} steps are more than {e.steps} steps"
        )
    if min(o.weight_decay, o.clip_norm, s.warmup_steps, s.decay_steps) < 0:
        problems.append("optimizer: weight_decay, clip_norm, warmup and decay cannot be negative")
    if not 0 < o.layer_decay <= 1:
        problems.append(f"optimizer.layer_decay must be in (0, 1], not {o.layer_decay}")
    if getattr(e.model, "mup_base", 0) and o.multipliers:
        problems.append("optimizer.multipliers and model.mup_base: muP sets the multipliers itself")
    if getattr(e.model, "mup_base", 0) and o.name not in ("adamw", "adamw_bert", "lion"):
        problems.append(f"model.mup_base: muP's rates are Adam's and Lion's, not {o.name}'s")
    if s.kind == "constant" and s.decay_steps:
        problems.append("optimizer.schedule.decay_steps has no effect on a constant schedule")
    return problems


# What the letters that layouts split are called in a model's settings.
_LETTERS = {"D": "embed", "N": "heads", "F": "mlp", "V": "vocab"}


def _mesh(e: Experiment, sizes: dict[str, int]) -> list[str]:
    problems = []
    rows = sizes["replica"] * sizes["data"] * sizes["fsdp"]
    spelled = f"replica {sizes['replica']} x data {sizes['data']} x fsdp {sizes['fsdp']}"
    if e.batch % (rows * e.microbatches):
        parts = f" in {e.microbatches} microbatches" if e.microbatches > 1 else ""
        problems.append(
            f"batch {e.batch} does not divide over {rows} rows of mesh axes {spelled}{parts};"
            f" try {_near(e.batch, rows * e.microbatches)}"
        )
    split_letters = {"D": "fsdp", "N": "tensor", "F": "tensor", "V": "tensor"}
    names = _LETTERS | ({"F": "cell"} if e.model.family == "elmo" else {})
    splits = {"length": (e.length, "sequence", True)} | {
        f"model.{names[letter]}": (e.model.sizes[letter], axis, axis in e.layout)
        for letter, axis in split_letters.items()
        if letter in e.model.sizes
    }
    for name, (size, axis, split) in splits.items():
        if split and size % sizes[axis]:
            ways = max(n for n in range(1, sizes[axis] + 1) if size % n == 0 == sizes[axis] % n)
            problems.append(
                f"{name} {size} does not divide over mesh axis {axis}={sizes[axis]};"
                f" try {_near(size, sizes[axis])}, or --mesh.{axis} {ways}"
            )
    if sizes["sequence"] > 1 and getattr(e.model, "recurrent", False):
        problems.append(
            f"mesh axis sequence={sizes['sequence']}: family {e.model.family} reads a row one token"
            " after the other, so its length cannot be split; use --mesh.sequence 1"
        )
    if getattr(e.model, "attention", "") == "splash":
        if sizes["sequence"] > 1:
            problems.append(
                "model.attention splash reads whole rows; use --mesh.sequence 1, or blocks"
            )
        if e.length % 128:
            problems.append(
                f"model.attention splash takes a length of a multiple of 128, not {e.length}"
            )
    for axis in ("fsdp", "tensor"):
        if sizes[axis] > 1 and axis not in e.layout:
            near = f"fsdp_tensor or {axis}"
            problems.append(
                f"mesh axis {axis}={sizes[axis]} splits nothing in layout {e.layout!r};"
                f" use --layout {near}, or --mesh.{axis} 1"
            )
    return problems


def _near(size: int, divisor: int) -> str:
    below, above = size // divisor * divisor, -(-size // divisor) * divisor
    return f"{below} or {above}" if below else f"{above}"
