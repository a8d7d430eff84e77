"""ELMo's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from gesso.models.facts import Architecture, Facts, Stage


@dataclass(frozen=True, kw_only=True)
class ELMoConfig(Facts):
    """ELMo's bidirectional language model; the fields are those of its options.json files."""

    architecture: ClassVar[Architecture] = "two_directions"
    pretraining: ClassVar[Stage] = "bilm"
    reads_in_turn: ClassVar[bool] = True
    letter_fields: ClassVar[Mapping[str, str]] = {"F": "cell"}

    family: Literal["elmo"] = "elmo"
    """Names the family in a record; always "elmo" here."""
    vocab: int = 256
    """Number of softmax classes."""
    reads: Literal["characters", "words"] = "characters"
    """Input representation of a word: its "characters", or its own row of a table ("words")."""
    characters: int = 50
    """Most characters of a word, its begin and end included."""
    character_embed: int = 16
    """Width of a character's embedding."""
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64))
    """Convolutions over a word's characters, as (width, count) pairs."""
    activation: Literal["relu", "tanh"] = "relu"
    """Function behind the convolutions."""
    highways: int = 1
    """Highway layers on the convolutions' outputs, which a projection then takes to `embed`."""
    embed: int = 64
    """Width of a word's embedding, and of what each LSTM is projected to."""
    layers: int = 2
    """LSTM layers of each direction."""
    cell: int = 256
    """Width of the LSTMs' cells."""
    cell_clip: float = 3.0
    """Cells stay within -cell_clip..cell_clip; 0 = never clipped."""
    projection_clip: float = 3.0
    """Projections stay within -projection_clip..projection_clip; 0 = never clipped."""
    residuals: Literal["layers", "none"] = "layers"
    """Residual connections: "layers" adds its input to every layer's output but the first's; or
    "none"."""
    head: Literal["shared", "separate", "tied", "none"] = "shared"
    """Softmax of the two directions: one "shared", one each ("separate"), the table of words
    ("tied"), or "none", as in published weights that come without one."""
    dropout: float = 0.0
    """Dropout rate of what every layer and the softmax read; 0 = off."""
    chunk_words: int = 0
    """Words whose convolutions exist at once, about; 0 = all. Whole columns of the batch are taken;
    they are the largest arrays of a step, so lower it when it does not fit in memory; it changes no
    result."""
    unroll: int = 16
    """Time steps whose input projections are one product, as are the gradients of their weights; 0
    = the whole row. A mesh adds up gradients once per so many steps."""

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
    def read_vocab(self) -> int:
        return self.vocab

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
