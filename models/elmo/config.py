"""ELMo's settings."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ELMoConfig:
    """ELMo's bidirectional language model; the fields carry what its options.json files say.

    vocab: words the softmax tells apart. reads: what a word is read by, its "characters" (at most
    `characters` of them, word begin and end included) or, as "words", its own row of a table.
    filters: (width, count) of each convolution over a word's characters, character_embed wide;
    highways: highway layers on their outputs, which a projection then takes to `embed`.
    layers, cell, embed: the LSTMs of each direction, their cells and what they are projected to.
    cell_clip, projection_clip: cells and projections stay within -clip..clip; 0: never clipped.
    residuals: "layers" adds to every layer's output but the first's what it read.
    head: one softmax "shared" by the directions, one each ("separate"), the table of words read
        ("tied"), or none, as in published weights that come without one.
    dropout: of what every layer reads and of what the softmax reads.
    chunk_words: at most about so many words' convolutions exist at once (whole columns of the
        batch); 0: those of all. They are the largest arrays of a step; it changes no result.
    unroll: time steps whose input projections are one product, as are the gradients of their
        weights; 0: the whole row's. A mesh adds up gradients once per so many steps.
    """

    family: Literal["elmo"] = "elmo"
    vocab: int = 256
    reads: Literal["characters", "words"] = "characters"
    characters: int = 50
    character_embed: int = 16
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64))
    activation: Literal["relu", "tanh"] = "relu"
    highways: int = 1
    embed: int = 64
    layers: int = 2
    cell: int = 256
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    residuals: Literal["layers", "none"] = "layers"
    head: Literal["shared", "separate", "tied", "none"] = "shared"
    dropout: float = 0.0
    chunk_words: int = 0
    unroll: int = 16

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        found = [
            f"model.{name} must be at least 1, not {getattr(self, name)}"
            for name in ("vocab", "embed", "layers", "cell", "character_embed")
            if getattr(self, name) < 1
        ]
        found += [
            f"model.{name} cannot be negative: {getattr(self, name)}"
            for name in ("highways", "cell_clip", "projection_clip", "unroll", "chunk_words")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.dropout < 1:
            found.append(f"model.dropout must be at least 0 and below 1, not {self.dropout}")
        if self.reads == "characters":
            found += self._character_problems()
        elif self.chunk_words:
            found.append("model.chunk_words has no effect on a model that reads words; set it to 0")
        if self.head == "tied" and self.reads != "words":
            found.append(
                "model.head tied needs the table of a model that reads words; characters have"
                " none: use head shared"
            )
        return found

    def _character_problems(self) -> list[str]:
        if not self.filters:
            return ["model.filters is empty; give (width, count) pairs"]
        found = [
            f"model.filters has ({width}, {count}): widths are from 1 to the {self.characters}"
            " characters of a word, counts at least 1"
            for width, count in self.filters
            if not 1 <= width <= self.characters or count < 1
        ]
        if self.characters < 4:
            found.append(
                f"model.characters {self.characters} leaves no room for the begin, the end and two"
                " characters of a word"
            )
        return found

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return self.dropout > 0

    @property
    def longest(self) -> None:
        """Rows may be of any length."""
        return None

    @property
    def recurrent(self) -> bool:
        """Whether a row is read one token after the other, so that no mesh can split its length."""
        return True

    @property
    def features(self) -> int:
        """What the convolutions make of a word, together."""
        return sum(count for _, count in self.filters)

    @property
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters."""
        return {
            "V": self.vocab,
            "X": 261,
            "E": self.character_embed,
            "A": self.features,
            "O": self.features,
            "Z": self.layers,
            "U": 2,
            "G": 4,
            "F": self.cell,
            "D": self.embed,
        }
