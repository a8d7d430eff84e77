"""The settings of several objectives in one run."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MixedConfig:
    """The settings of several objectives in one run."""

    kind: Literal["mixed"] = "mixed"
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return []
