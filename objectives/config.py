"""What is predicted, as settings: plain dataclasses read before JAX is imported.

Every config has `kind`, by which a record names it, and `problems()`, what is wrong with its
fields. The objectives of labelled examples are in labelled/config.py, those with a source and a
target in two_sides_config.py.
"""

from dataclasses import dataclass
from typing import Literal

from gesso.objectives.labelled.config import ClassifyConfig, QAConfig, RegressConfig, TagConfig
from gesso.objectives.two_sides_config import (
    DenoiseConfig,
    MixedConfig,
    MixedPart,
    Seq2SeqLMConfig,
)


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Next-token prediction inside each document."""

    kind: Literal["causal"] = "causal"
    """Names the objective in a record; always "causal" here."""
    z_loss: float = 0.0
    """Coefficient of log(Z)^2, which keeps the softmax's normaliser near 1 (PaLM,
    https://arxiv.org/abs/2204.02311, section 5); 0 = off."""
    chunk_tokens: int = 0
    """Tokens of the batch whose float32 logits exist at once; 0 = all. Lower it when logits do not
    fit in memory; a chunk takes part of every row, so it is rounded to whole columns of the batch,
    and it changes no result."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return [
            f"objective.{name} cannot be negative, not {getattr(self, name)}"
            for name in ("z_loss", "chunk_tokens")
            if getattr(self, name) < 0
        ]


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig:
    """Masked-token prediction inside each piece of a document (BERT,
    https://arxiv.org/abs/1810.04805), with or without prediction over pairs of texts."""

    kind: Literal["masked"] = "masked"
    """Names the objective in a record; always "masked" here."""
    mask_rate: float = 0.15
    """Share of a row's tokens that is predicted, in (0, 1)."""
    mask_share: float = 0.8
    """Share of the predicted places that reads [MASK]."""
    random_share: float = 0.1
    """Share of the predicted places that reads a random other token; the rest keep theirs."""
    unit: Literal["token", "word", "span"] = "token"
    """Unit that is drawn: "token", "word" (whole words) or "span" (spans of whole words, SpanBERT,
    https://arxiv.org/abs/1907.10529)."""
    span_end: float = 0.2
    """Probability that a span ends after each of its words; of unit "span" only."""
    span_longest: int = 10
    """Most words of a span; of unit "span" only."""
    pairs: Literal["none", "nsp", "sop"] = "none"
    """Prediction over two texts [CLS] A [SEP] B [SEP]: "none", "nsp" or "sop". "nsp": B continues A
    or, half of the time, comes from another document. "sop" (ALBERT,
    https://arxiv.org/abs/1909.11942): A and B are in order or swapped."""
    pair_tokens: int = 4
    """Fewest tokens of each text of a pair; shorter pieces become [CLS] A [SEP] and count for no
    pair."""
    seed: int = 0
    """Seed of the masks and pairs. Draws depend on the row's number too, so no two epochs have the
    same masks."""
    mask: int = -1
    """Id of [MASK]; -1 = the tokenizer's. For a tokenizer without one, give an id that the model
    has beyond the tokenizer's."""
    cls: int = -1
    """Id of [CLS]; -1 = the tokenizer's, as for mask."""
    sep: int = -1
    """Id of [SEP]; -1 = the tokenizer's, as for mask."""
    chunk_tokens: int = 0
    """Predicted places whose float32 logits exist at once; 0 = all. Lower it when logits do not fit
    in memory; it changes no result."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = [
            f"objective.{name} must be at least {least}, not {getattr(self, name)}"
            for name, least in (
                ("span_longest", 1),
                ("pair_tokens", 1),
                ("mask", -1),
                ("cls", -1),
                ("sep", -1),
                ("chunk_tokens", 0),
            )
            if getattr(self, name) < least
        ]
        problems += [
            f"objective.{name} must be in (0, 1), not {getattr(self, name)}"
            for name in ("mask_rate", "span_end")
            if not 0 < getattr(self, name) < 1
        ]
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            problems.append(
                "objective.mask_share and objective.random_share are shares of one whole, not"
                f" {self.mask_share} and {self.random_share}"
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class BiLMConfig:
    """Prediction of each word from the words before it and, separately, from the words after it."""

    kind: Literal["bilm"] = "bilm"
    """Names the objective in a record; always "bilm" here."""
    softmax: Literal["full", "sampled"] = "full"
    """"full", or "sampled": over the target and `samples` drawn words while training. Words are
    drawn anew for every update and direction (objectives/sampled_softmax.py); evaluation is always
    full."""
    samples: int = 0
    """Words drawn per update and direction for softmax "sampled"; 0 with "full"."""
    state: Literal["reset", "carried"] = "reset"
    """State that a row starts from: "reset" or "carried". "reset": zero, and documents in a row are
    independent; "carried": the model's state after the row before, which needs data.packing
    stream."""
    chunk_tokens: int = 0
    """Tokens of the batch whose float32 logits exist at once, with softmax "full"; 0 = all. Lower
    it when logits do not fit in memory; it changes no result."""

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        found = []
        if self.softmax == "sampled" and self.samples < 1:
            found.append(f"objective.samples must be at least 1, not {self.samples}")
        if self.softmax == "full" and self.samples:
            found.append("objective.samples has no effect on a full softmax; set it to 0")
        if self.chunk_tokens < 0:
            found.append(f"objective.chunk_tokens cannot be negative: {self.chunk_tokens}")
        return found

    @property
    def draws(self) -> bool:
        """Whether a training step draws random numbers."""
        return self.softmax == "sampled"


ObjectiveConfig = (
    CausalLMConfig
    | MaskedLMConfig
    | BiLMConfig
    | DenoiseConfig
    | Seq2SeqLMConfig
    | MixedConfig
    | ClassifyConfig
    | RegressConfig
    | TagConfig
    | QAConfig
)
# Kinds that are trained on labelled examples (data/labelled/store.py).
TASKS = ("classify", "regress", "tag", "qa")

__all__ = [
    "TASKS",
    "BiLMConfig",
    "CausalLMConfig",
    "ClassifyConfig",
    "DenoiseConfig",
    "MaskedLMConfig",
    "MixedConfig",
    "MixedPart",
    "ObjectiveConfig",
    "QAConfig",
    "RegressConfig",
    "Seq2SeqLMConfig",
    "TagConfig",
]
