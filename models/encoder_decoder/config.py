"""The settings of an encoder and a decoder of other families joined by cross-attention."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gesso.models.bert.config import BERTConfig
from gesso.models.facts import Architecture, Facts, Stage
from gesso.models.gpt.config import GPTConfig


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(Facts):
    """An encoder and a decoder of their own families, joined by cross-attention: BERT2BERT,
    BERT2GPT and their relatives (https://arxiv.org/abs/1907.12461)."""

    architecture: ClassVar[Architecture] = "encoder_decoder"
    pretraining: ClassVar[Stage] = "seq2seq"
    adapters: ClassVar[tuple[str, ...]] = ("lora", "ia3", "p_tuning")
    has_sides: ClassVar[bool] = True

    family: Literal["encoder_decoder"] = "encoder_decoder"
    """Names the family in a record; always "encoder_decoder" here."""
    encoder: BERTConfig = BERTConfig(outputs=())
    """The encoder's settings; its outputs may hold the pooler of published models, which nothing
    reads."""
    decoder: BERTConfig | GPTConfig = BERTConfig()
    """The decoder's settings: BERT with outputs ("mlm",), or GPT with sequential blocks."""
    tie: Literal["none", "encoder_decoder"] = "none"
    """Parameters that both sides share: "none", or "encoder_decoder": one set of embeddings and
    blocks is both sides (BERTShare). The sides' settings are then equal, and cross-attention is the
    decoder's alone."""
    start: int = 0
    """Id the decoder reads first."""

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        encoder, decoder = self.encoder, self.decoder
        found = [_of(each, "encoder") for each in encoder.problems()]
        found += [_of(each, "decoder") for each in decoder.problems()]
        if isinstance(decoder, BERTConfig) and decoder.outputs != ("mlm",):
            found.append(f'model.decoder.outputs must be ("mlm",), not {decoder.outputs}')
        if isinstance(decoder, GPTConfig) and decoder.block != "sequential":
            found.append(
                f"model.decoder.block {decoder.block} has no place for cross-attention;"
                " use sequential"
            )
        if self.tie == "none" and set(encoder.outputs) - {"pooler"}:
            found.append(
                f'model.encoder.outputs {encoder.outputs}: only ("pooler",) or none has a place'
                " in an encoder-decoder"
            )
        if self.tie != "none" and encoder != decoder:
            found.append(
                f"model.tie {self.tie} needs model.encoder and model.decoder to be equal; they"
                " differ"
            )
        if not 0 <= self.start < decoder.vocab:
            found.append(f"model.start {self.start} is no id of a vocab of {decoder.vocab}")
        return found

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return self.encoder.drops or self.decoder.drops

    @property
    def vocab(self) -> int:
        """How many ids the decoder writes."""
        return self.decoder.vocab

    @property
    def longest(self) -> int:
        """The most tokens a row of source or target may have: what both sides can hold."""
        return min(self.encoder.longest, self.decoder.longest)

    @property
    def blocks(self) -> GPTConfig:
        """The settings of the decoder's blocks."""
        return self.decoder.blocks if isinstance(self.decoder, BERTConfig) else self.decoder

    @property
    def read_vocab(self) -> int:
        return self.encoder.vocab

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each letter of the alphabet in this model's parameters; where the sides
        differ, the largest number that divides both, which is what a mesh asks about. Z counts the
        layers of both."""
        sides = self.encoder.sizes, self.blocks.sizes
        both = {letter: math.gcd(sides[0][letter], size) for letter, size in sides[1].items()}
        return both | {"Z": self.encoder.layers + self.decoder.layers}


def _of(problem: str, side: str) -> str:
    return problem.replace("model.", f"model.{side}.")
