"""The settings of the Transformer encoder-decoder and of T5."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """The settings of the Transformer encoder-decoder and of T5."""

    family: Literal["seq2seq"] = "seq2seq"
    vocab: int = 256
    positions: int = 128
    layers: int = 2
    embed: int = 64
    heads: int = 4
    mlp: int = 256

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        return []

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return False

    @property
    def longest(self) -> int | None:
        """The most tokens a row may have."""
        return self.positions

    @property
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters."""
        return {"V": self.vocab, "D": self.embed, "N": self.heads, "F": self.mlp, "Z": self.layers}
