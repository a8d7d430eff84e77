"""The settings of prediction from source to target."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMConfig:
    """The settings of prediction from source to target."""

    kind: Literal["seq2seq"] = "seq2seq"
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return []
