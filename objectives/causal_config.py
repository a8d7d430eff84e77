"""The settings of next-token prediction."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Next-token prediction inside each document.

    z_loss: coefficient of log(Z)^2 (PaLM, https://arxiv.org/abs/2204.02311, section 5).
    chunk_tokens: tokens of the batch whose float32 logits exist at once; 0 = all of them. A chunk
    takes part of every row, so it is rounded to whole columns of the batch.
    """

    kind: Literal["causal"] = "causal"
    z_loss: float = 0.0
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return [
            f"objective.{name} cannot be negative, not {getattr(self, name)}"
            for name in ("z_loss", "chunk_tokens")
            if getattr(self, name) < 0
        ]
