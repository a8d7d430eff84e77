"""The settings of objectives with a source and a target: denoise, seq2seq, and their mixture."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """One denoiser: a source made of each piece of a document, and the target that the decoder
    writes."""

    kind: Literal["denoise"] = "denoise"
    """Names the objective in a record; always "denoise" here."""
    form: Literal["spans", "prefix", "causal"] = "spans"
    """How a piece is corrupted: "spans", "prefix" or "causal". "spans": the encoder reads the piece
    with spans replaced by sentinels, the decoder writes each sentinel with the tokens it stands for
    (T5, https://arxiv.org/abs/1910.10683, section 3.1.4). "prefix": the encoder reads the
    beginning, the decoder writes the rest. "causal": the encoder reads only a mode (or an end)
    token, the decoder writes all."""
    noise_density: float = 0.15
    """Share of the piece's tokens that is written, in (0, 1); of "spans" and "prefix". For "prefix"
    it is the mean share: 0.5 puts the split anywhere with equal probability."""
    mean_span: float = 3.0
    """Mean tokens of a span, of "spans"; below 1, a share of the piece's tokens (UL2,
    https://arxiv.org/abs/2205.05131, table 1, gives some spans as such shares)."""
    sentinels: int = 100
    """Number of ids that stand for spans: `first_sentinel` and those below it, in this order."""
    first_sentinel: int = -1
    """Id of the first sentinel; -1 = the model's last id. (T5's is 32099, although its table has
    32128 rows.)"""
    mode: int = -1
    """Id put first in every source, to name the denoiser (UL2's [R], [S], [X]); -1 = none."""
    start: int = -1
    """Id the decoder reads first; -1 = the one in the model's config."""
    seed: int = 0
    """Seed of the corruptions; change it to corrupt the same rows differently."""
    chunk_tokens: int = 0
    """Tokens of the batch whose float32 logits exist at once; 0 = all. Lower it when logits do not
    fit in memory; it changes no result."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = [
            f"objective.{name} must be {least} or more, not {getattr(self, name)}"
            for name, least in (
                ("sentinels", 1),
                ("first_sentinel", -1),
                ("mode", -1),
                ("start", -1),
                ("seed", 0),
                ("chunk_tokens", 0),
            )
            if getattr(self, name) < least
        ]
        if not 0 < self.noise_density < 1:
            problems.append(
                f"objective.noise_density is a share between 0 and 1, not {self.noise_density}"
            )
        if not self.mean_span > 0:
            problems.append(f"objective.mean_span must be positive, not {self.mean_span}")
        return problems


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMConfig:
    """Prediction of a target from a source, for documents that hold a source, a separator and a
    target."""

    kind: Literal["seq2seq"] = "seq2seq"
    """Names the objective in a record; always "seq2seq" here."""
    separator: str = "\t"
    """Text between source and target, exactly one id of the tokenizer; a document is split at its
    first one."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread evenly over the vocabulary
    (https://arxiv.org/abs/1512.00567, section 7); 0.1 in https://arxiv.org/abs/1706.03762."""
    start: int = -1
    """Id the decoder reads first; -1 = the one in the model's config."""
    chunk_tokens: int = 0
    """Tokens of the batch whose float32 logits exist at once; 0 = all. Lower it when logits do not
    fit in memory; it changes no result."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = []
        if not self.separator:
            problems.append("objective.separator is empty; a tab is usual")
        if not 0 <= self.label_smoothing < 1:
            problems.append(
                "objective.label_smoothing is a share of at least 0 and below 1,"
                f" not {self.label_smoothing}"
            )
        if self.start < -1:
            problems.append(f"objective.start must be -1 or more, not {self.start}")
        if self.chunk_tokens < 0:
            problems.append(f"objective.chunk_tokens cannot be negative, not {self.chunk_tokens}")
        return problems


@dataclass(frozen=True, kw_only=True)
class MixedPart:
    """One of the objectives of a mixture."""

    objective: DenoiseConfig | Seq2SeqLMConfig = DenoiseConfig()
    """The part's own objective and its settings."""
    share: float = 1.0
    """Share of the rows, in proportion to the other parts' shares."""
    coefficient: float = 1.0
    """Weight of the part's loss, a mean over its own targets in the batch, in the whole loss.
    Coefficients equal to the shares make the whole, on average, a mean over rows."""


@dataclass(frozen=True, kw_only=True)
class MixedConfig:
    """Several objectives on one corpus, for one model; each row belongs to one of them."""

    kind: Literal["mixed"] = "mixed"
    """Names the objective in a record; always "mixed" here."""
    parts: dict[str, MixedPart] = field(default_factory=dict)
    """The objectives, by the name that their metrics have; reports show the first as the main
    one."""
    seed: int = 0
    """Seed of the assignment of rows to parts."""
    chunk_tokens: int = 0
    """Tokens of the batch whose float32 logits exist at once, for all parts; 0 = all. Those of the
    parts have no effect."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = []
        if not self.parts:
            problems.append("objective.parts is empty: name at least one objective")
        for name, part in self.parts.items():
            at = f"objective.parts.{name}"
            if not re.fullmatch(r"[a-z][a-z0-9]*", name):
                problems.append(f"{at}: a part is named by small letters and digits, r or spans2")
            if not (part.share > 0 and math.isfinite(part.share)):
                problems.append(f"{at}.share must be positive, not {part.share}")
            if not (part.coefficient >= 0 and math.isfinite(part.coefficient)):
                problems.append(f"{at}.coefficient cannot be negative, not {part.coefficient}")
            if part.objective.chunk_tokens:
                problems.append(f"{at}.objective.chunk_tokens has no effect; set that of the mix")
            problems += [
                each.replace("objective.", f"{at}.objective.") for each in part.objective.problems()
            ]
        if self.parts and not any(part.coefficient for part in self.parts.values()):
            problems.append("objective.parts: some coefficient must be above 0")
        for name, value in (("seed", self.seed), ("chunk_tokens", self.chunk_tokens)):
            if value < 0:
                problems.append(f"objective.{name} cannot be negative, not {value}")
        return problems
