"""The settings of masked-token prediction."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig:
    """The settings of masked-token prediction."""

    kind: Literal["masked"] = "masked"
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return []
