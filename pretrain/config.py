"""The run as settings: optimizer, precision, checkpoints, logging. Plain dataclasses, no JAX."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps, as a multiple of the peak.

    kind: cosine, linear, wsd (warmup, stable, decay), inverse_sqrt, inverse_sqrt_held (T5's: at the
    peak through the warmup_steps, too), stlr (slanted triangular, ULMFiT), constant. warmup_steps:
    linear, the first update taking peak / warmup_steps and the last the peak (Megatron's count).
    decay_steps: length of the decay; 0 = up to the last step.
    final: multiple of the peak at the end, held from there on.
    """

    kind: Literal[
        "constant", "cosine", "linear", "wsd", "inverse_sqrt", "inverse_sqrt_held", "stlr"
    ] = "constant"
    warmup_steps: int = 0
    decay_steps: int = 0
    final: float = 0.0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        if self.kind == "constant" and self.decay_steps:
            return ["optimizer.schedule.decay_steps has no effect on a constant schedule"]
        return []


# Arrays the size of the parameters that each optimizer keeps. Adafactor keeps sums of rows and
# columns, next to nothing; muon one momentum for its matrices and adamw's two for the rest.
MOMENTS = {"adamw": 2, "adamw_bert": 2, "adagrad": 1, "lion": 1, "adafactor": 0, "muon": 1}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer by name; adamw_bert is AdamW without bias correction, as BERT was trained.

    initial_accumulator: what adagrad's sums of squared gradients start from (adagrad alone).
    decay, no_decay, multipliers hold patterns (fnmatch) over parameter names such as
    "blocks/attention/q". Weight decay reaches what a `decay` pattern matches and no `no_decay`
    pattern does. multipliers scale the learning rate, the first match wins, and where there are
    any they must cover every parameter. A pattern that matches no parameter is an error.
    layer_decay: the learning rate is multiplied by it once for every step down from what lies
    behind the last layer: that takes 1, the last layer layer_decay, the one below its square, the
    embeddings the most. ULMFiT's discriminative rates are 1 / 2.6.
    clip_norm: largest global norm of the gradients; 0 = never clipped.
    max_skipped_steps: updates in a row with a loss or gradient that is no number before the run
    gives up; each of them leaves the state as it was.
    """

    name: Literal["adamw", "adamw_bert", "adagrad", "lion", "adafactor", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: ScheduleConfig = ScheduleConfig()
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    initial_accumulator: float = 0.1
    weight_decay: float = 0.0
    decay: tuple[str, ...] = ("*",)
    no_decay: tuple[str, ...] = ()
    multipliers: dict[str, float] = field(default_factory=dict)
    layer_decay: float = 1.0
    clip_norm: float = 0.0
    max_skipped_steps: int = 10

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        found = [
            f"optimizer.{name} must be in [0, 1), not {value}"
            for name, value in (("b1", self.b1), ("b2", self.b2))
            if not 0 <= value < 1
        ]
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            found.append(f"optimizer.learning_rate must be positive, not {self.learning_rate}")
        steps = (self.schedule.warmup_steps, self.schedule.decay_steps)
        if min(self.weight_decay, self.clip_norm, *steps) < 0:
            found.append("optimizer: weight_decay, clip_norm, warmup and decay cannot be negative")
        if not 0 < self.layer_decay <= 1:
            found.append(f"optimizer.layer_decay must be in (0, 1], not {self.layer_decay}")
        return [*found, *self.schedule.problems()]


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Up to and with update `until`, rows of `length` tokens, `batch` of them in `microbatches`.

    A phase reads the corpus in an order of its own, from its first row.
    """

    until: int
    length: int
    batch: int
    microbatches: int = 1


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Up to and with update `until`, what is trained and how fast; the data goes on as it was.

    trainable, first_layer: as in the experiment. learning_rate: the peak; 0 = the experiment's.
    schedule: counts the updates of this stage. Parameters that were trained before keep their
    moments; the others begin with fresh ones. All else of the optimizer is the experiment's.
    """

    until: int
    trainable: tuple[str, ...] = ()
    first_layer: int = 0
    learning_rate: float = 0.0
    schedule: ScheduleConfig = ScheduleConfig()

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        if self.learning_rate < 0:
            return ["a stage's learning_rate cannot be negative; 0 is the experiment's own"]
        return []


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What a new run begins with, where not from scratch; a run that has a checkpoint goes on.

    source: a run folder, or RUN/checkpoints/STEP; "" = none. encoder, decoder: the same, for the
    two sides of an encoder-decoder (BERT2BERT); its cross-attention is fresh.
    rename: {pattern of the source's names: what they are called here}, one * in each, such as
    {"blocks/*": "encoder/blocks/*"}.
    allow_fresh: patterns (fnmatch) of parameters that are drawn anew where the source has none of
    that name and shape: a new head. All others must be there.
    allow_changed: settings of the model in which the source may differ, such as "epsilon".
    """

    source: str = ""
    encoder: str = ""
    decoder: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    allow_fresh: tuple[str, ...] = ()
    allow_changed: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Whether a source is named at all."""
        return bool(self.source or self.encoder or self.decoder)

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        found = []
        if self.source and (self.encoder or self.decoder):
            found.append(
                "start.source is of the whole model: give it, or start.encoder and .decoder"
            )
        if not self.named and (self.rename or self.allow_changed):
            found.append("start.rename and allow_changed have no effect without a source")
        for old, new in self.rename.items():
            if old.count("*") != new.count("*") or old.count("*") > 1:
                found.append(f"start.rename {old!r} to {new!r}: one * in each, or none in both")
        return found


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """params: what is stored and updated. compute: what the model multiplies in."""

    params: Literal["float32", "bfloat16"] = "float32"
    compute: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep. A 0 switches that rule off; the last step is always saved.

    timeout_seconds: how long one process waits for the others in a save or a restore.
    """

    every_steps: int = 1000
    every_minutes: float = 0.0
    keep_last: int = 2
    keep_every_steps: int = 0
    timeout_seconds: int = 600

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {self.keep_last}")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where the figures of a run go. wandb: a project name; empty = off."""

    every_steps: int = 10
    tensorboard: bool = True
    wandb: str = ""
