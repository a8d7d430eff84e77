"""The run as settings: optimizer, precision, checkpoints, logging. Plain dataclasses, no JAX."""

import math
from dataclasses import dataclass, field
from typing import Literal

from gesso.records.config import LoggingConfig as LoggingConfig  # a setting of a run, too


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps, as a multiple of the peak."""

    kind: Literal[
        "constant", "cosine", "linear", "wsd", "inverse_sqrt", "inverse_sqrt_held", "stlr"
    ] = "constant"
    """Shape after the warmup: constant, cosine, linear, wsd (warmup, stable, decay), inverse_sqrt,
    inverse_sqrt_held or stlr. Of these inverse_sqrt_held is T5's, at the peak through the
    warmup_steps, too, and stlr is slanted triangular (ULMFiT)."""
    warmup_steps: int = 0
    """Updates of linear warmup. The first takes peak / warmup_steps, the last the peak (Megatron's
    count)."""
    decay_steps: int = 0
    """Updates of the decay; 0 = up to the last step."""
    final: float = 0.0
    """Multiple of the peak at the end of the decay, held from there on."""

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
    """One optimizer by name, its learning rate, and which parameters decay and how fast they
    learn."""

    name: Literal["adamw", "adamw_bert", "adagrad", "lion", "adafactor", "muon"] = "adamw"
    """Update rule. Of these adamw_bert is AdamW without bias correction, as BERT was trained."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over steps, as a multiple of the peak."""
    b1: float = 0.9
    """Decay rate of the mean of gradients; of lion the share of the old momentum in an update
    (adamw, adamw_bert, lion, muon)."""
    b2: float = 0.999
    """Decay rate of the mean of squared gradients; of lion that of the momentum (adamw, adamw_bert,
    lion, muon)."""
    epsilon: float = 1e-8
    """Added to the update's denominator, against division by zero; adagrad adds it to the sum of
    squares."""
    initial_accumulator: float = 0.1
    """Start of adagrad's sums of squared gradients (adagrad alone)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of what `decay` names; 0 = off. It is multiplied by the learning
    rate."""
    decay: tuple[str, ...] = ("*",)
    """Parameters with weight decay, as patterns (fnmatch) over names such as "blocks/attention/q";
    a pattern must match some parameter."""
    no_decay: tuple[str, ...] = ()
    """Parameters without weight decay although `decay` names them, as patterns."""
    multipliers: dict[str, float] = field(default_factory=dict)
    """Factors of the learning rate by pattern of parameter names; {} = 1 for all. The first match
    wins; where there are any they must cover every parameter."""
    layer_decay: float = 1.0
    """Factor of the learning rate per layer below the head; 1 = off. The rate of layer i of n is
    peak * layer_decay ** (n - i), i from 0; the head takes the peak, the embeddings the least.
    ULMFiT's discriminative rates are 1 / 2.6."""
    clip_norm: float = 0.0
    """Largest global norm of the gradients; 0 = never clipped."""
    max_skipped_steps: int = 10
    """Updates in a row with a NaN or infinite loss or gradient before the run gives up; each leaves
    the state as it was."""

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
    """An earlier part of a run with rows and batches of its own, which reads the corpus in an order
    of its own from its first row."""

    until: int
    """Last update of the phase."""
    length: int
    """Tokens of a row in the phase."""
    batch: int
    """Rows per update in the phase, over the whole mesh."""
    microbatches: int = 1
    """Parts that a batch of the phase is accumulated in."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """An earlier part of a run that trains other parameters or at other rates; the data goes on as
    it was."""

    until: int
    """Last update of the stage."""
    trainable: tuple[str, ...] = ()
    """Trained parameters, as in the experiment. Those trained before keep their moments; the others
    begin with fresh ones."""
    first_layer: int = 0
    """First trained layer, as in the experiment."""
    learning_rate: float = 0.0
    """Peak learning rate of the stage; 0 = the experiment's."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the updates of this stage; all else of the optimizer is the
    experiment's."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        if self.learning_rate < 0:
            return ["a stage's learning_rate cannot be negative; 0 is the experiment's own"]
        return []


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The parameters a new run begins with where it does not start from scratch; a run that has a
    checkpoint goes on from that."""

    source: str = ""
    """Run to start from: a run folder, or RUN/checkpoints/STEP; "" = none."""
    encoder: str = ""
    """Run to take the encoder from, for an encoder-decoder (BERT2BERT); "" = none. Its
    cross-attention is fresh."""
    decoder: str = ""
    """Run to take the decoder from, for an encoder-decoder; "" = none."""
    rename: dict[str, str] = field(default_factory=dict)
    """New names of the source's parameters, by pattern, one * in each: {"blocks/*":
    "encoder/blocks/*"}."""
    allow_fresh: tuple[str, ...] = ()
    """Parameters, by pattern (fnmatch), that may be drawn anew where the source has none of that
    name and shape, such as a new head; all others must be there."""
    allow_changed: tuple[str, ...] = ()
    """Settings of the model in which the source may differ, such as "epsilon"."""

    @property
    def has_source(self) -> bool:
        """Whether a source is named at all."""
        return bool(self.source or self.encoder or self.decoder)

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        found = []
        if self.source and (self.encoder or self.decoder):
            found.append(
                "start.source is of the whole model: give it, or start.encoder and .decoder"
            )
        if not self.has_source and (self.rename or self.allow_changed):
            found.append("start.rename and allow_changed have no effect without a source")
        for old, new in self.rename.items():
            if old.count("*") != new.count("*") or old.count("*") > 1:
                found.append(f"start.rename {old!r} to {new!r}: one * in each, or none in both")
        return found


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """The dtypes of parameters and of arithmetic."""

    params: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which parameters are stored and updated."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which the model multiplies. On TPUs and recent GPUs bfloat16 is faster."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep; the last step is always saved."""

    every_steps: int = 1000
    """Updates between checkpoints; 0 = off."""
    every_minutes: float = 0.0
    """Minutes between checkpoints; 0 = off."""
    keep_last: int = 2
    """Newest checkpoints that are kept; at least 1."""
    keep_every_steps: int = 0
    """Checkpoints at multiples of so many updates are kept for good; 0 = off."""
    timeout_seconds: int = 600
    """Seconds that one process waits for the others in a save or a restore."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {self.keep_last}")
