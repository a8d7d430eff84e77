"""The settings of masked-token prediction."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig:
    """Masked-token prediction inside each document piece (BERT, https://arxiv.org/abs/1810.04805),
    and whether a piece's second part belongs to its first.

    mask_rate: the share of a row's tokens that is predicted. Of the predicted places, a share
    `mask_share` reads [MASK] and a share `random_share` any other token; the rest keep theirs.
    unit: what is drawn: tokens, whole words, or spans of whole words (SpanBERT,
    https://arxiv.org/abs/1907.10529), which end after each word with probability `span_end` and
    have at most `span_longest` words.
    pairs: "nsp", next sentence prediction: [CLS] A [SEP] B [SEP], where B continues A or, half of
    the time, is text of another document. "sop" (ALBERT, https://arxiv.org/abs/1909.11942): B and A
    are in order or swapped. pair_tokens: the fewest tokens of each side; shorter pieces are
    [CLS] A [SEP] and count for no pair.
    seed: which places and pairs are drawn. A row's draws depend on its number, so no two epochs
    have the same masks.
    mask, cls, sep: ids of the special tokens; -1: the tokenizer's own. For a tokenizer that has
    none, ids that the model has beyond the tokenizer's.
    chunk_tokens: predicted places whose float32 logits exist at once; 0 = all of them.
    """

    kind: Literal["masked"] = "masked"
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: Literal["token", "word", "span"] = "token"
    span_end: float = 0.2
    span_longest: int = 10
    pairs: Literal["none", "nsp", "sop"] = "none"
    pair_tokens: int = 4
    seed: int = 0
    mask: int = -1
    cls: int = -1
    sep: int = -1
    chunk_tokens: int = 0

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
