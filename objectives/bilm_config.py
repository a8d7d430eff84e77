"""The settings of the bidirectional language model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BiLMConfig:
    """Each word predicted from those before it, and from those after it.

    softmax: "full", or "sampled": while training, over the target and `samples` words that are
    drawn anew for every update and direction (objectives/sampled_softmax.py). Evaluation is full.
    state: what a row starts from. "reset": nothing; documents in a row know nothing of each other.
    "carried": what the model knew after the row before, which needs data.packing stream.
    chunk_tokens: full softmax only; see objectives/cross_entropy.py.
    """

    kind: Literal["bilm"] = "bilm"
    softmax: Literal["full", "sampled"] = "full"
    samples: int = 0
    state: Literal["reset", "carried"] = "reset"
    chunk_tokens: int = 0

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
