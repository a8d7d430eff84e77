"""What the house may ask of any model's config, answered for a family that has nothing special. No
JAX."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from gesso.models.layers.settings import Remat, Way

# What a model does with a text: predict the next token, read all of it, read one and write another,
# or predict the next token from both ends.
Architecture = Literal["decoder", "encoder", "encoder_decoder", "two_directions"]
Stage = Literal["causal", "masked", "bilm", "denoise", "seq2seq"]


class Facts:
    """Base class of every family's config. A family declares what differs from these defaults as a
    field, a property or a class variable; nobody asks a config for its family's name instead."""

    family: str
    """Its name in records and in `gesso.models.families`."""
    architecture: ClassVar[Architecture] = "decoder"
    """What it does with a text."""
    pretraining: ClassVar[Stage] = "causal"
    """The objective it is usually trained with: the record of an imported model has it."""
    reads_in_turn: ClassVar[bool] = False
    """Whether it reads a row one token after another, which no mesh axis can split."""
    has_sides: ClassVar[bool] = False
    """Whether its encoder and decoder are configs of other families, each started by itself."""
    adapters: ClassVar[tuple[str, ...]] = ()
    """The kinds of adapters it can have."""
    letter_fields: ClassVar[Mapping[str, str]] = {}
    """{letter: field that is its size} where these are called otherwise than by most families."""

    # Fields that not every family has.
    outputs: tuple[str, ...] = ()
    labels: int = 0
    pooling: str = "last"
    start: int = -1
    mup_base: int = 0
    word_embed: int = 0
    token_types: int = 0
    head: str = "tied"
    reads: str = "words"
    characters: int = 0
    attention: Way = "dense"
    remat: Remat = "none"
    unroll: int = 1
    encoder_layers: int = 0
    decoder_layers: int = 0

    @property
    def period(self) -> tuple[str, ...]:
        """The kinds of attention of its layers in turn, as often as the pattern needs."""
        return ("all",)

    @property
    def longest(self) -> int | None:
        """The most tokens a row may have; None: any number."""
        return None

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return False

    @property
    def sizes(self) -> Mapping[str, int]:
        """The size of each letter of the alphabet in its parameters."""
        raise NotImplementedError

    @property
    def read_vocab(self) -> int:
        """How many ids the tokens it reads may have: of an encoder-decoder those of its source."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """What is wrong with its fields, together; empty when a model can be built of them."""
        raise NotImplementedError
