"""The settings of the bidirectional language model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BiLMConfig:
    """The settings of the bidirectional language model."""

    kind: Literal["bilm"] = "bilm"
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return []
