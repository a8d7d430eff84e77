"""The settings of prediction from source to target."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMConfig:
    """Documents that are a source, one separator, and a target.

    separator: text that is exactly one id of the tokenizer; a document is split at its first one.
    label_smoothing: the share of the target's probability that is spread evenly over the
    vocabulary (https://arxiv.org/abs/1512.00567, section 7); 0.1 in
    https://arxiv.org/abs/1706.03762.
    start: the decoder's first input; -1: the one that the model's config names.
    chunk_tokens: as CausalLMConfig.chunk_tokens.
    """

    kind: Literal["seq2seq"] = "seq2seq"
    separator: str = "\t"
    label_smoothing: float = 0.0
    start: int = -1
    chunk_tokens: int = 0

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
