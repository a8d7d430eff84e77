"""The settings of the Transformer encoder-decoder and of T5."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from gesso.models.facts import Architecture, Facts, Stage
from gesso.models.layers.settings import (
    Activation,
    Bias,
    Gating,
    NormKind,
    NormPlace,
    PlainAttention,
    Remat,
)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(PlainAttention, Facts):
    """One encoder-decoder for the Transformer (https://arxiv.org/abs/1706.03762) and T5
    (https://arxiv.org/abs/1910.10683); the fields are their differences."""

    architecture: ClassVar[Architecture] = "encoder_decoder"
    pretraining: ClassVar[Stage] = "denoise"
    adapters: ClassVar[tuple[str, ...]] = ("lora", "ia3", "p_tuning", "focus")

    family: Literal["seq2seq"] = "seq2seq"
    """Names the family in a record; always "seq2seq" here."""
    vocab: int = 256
    """Rows of the tables of tokens: the tokenizer's ids, or more. More divide over a mesh, or take
    new tokens."""
    positions: int = 0
    """Longest row in tokens of "learned" positions, on either side; 0 with the others, which have
    no limit."""
    encoder_layers: int = 2
    """Number of blocks of the encoder."""
    decoder_layers: int = 2
    """Number of blocks of the decoder."""
    embed: int = 64
    """Width of the residual stream."""
    heads: int = 4
    """Attention heads of each layer."""
    head_dim: int = 16
    """Width of a head's queries, keys and values; T5's is not always embed / heads."""
    mlp: int = 256
    """Width between the products of the mlp; usually 4 * embed."""
    position_encoding: Literal["sinusoidal", "learned", "relative"] = "sinusoidal"
    """How a token knows its place: "sinusoidal", "learned" or "relative". The first two are added
    to the embeddings; "learned" has a table of `positions` rows for each side. "relative" adds a
    number to q.k for each head and each of `relative_buckets` distances; all layers of a side share
    them, cross-attention has none (T5)."""
    relative_buckets: int = 0
    """Distances told apart by "relative" positions (T5: 32); 0 with the others."""
    relative_distance: int = 0
    """Distance from which all share the last bucket of "relative" positions (T5: 128); 0 with the
    others."""
    embedding: Literal["shared", "separate"] = "shared"
    """Tables of source and target tokens: one "shared", or "separate" ones."""
    head: Literal["tied", "untied"] = "tied"
    """Weights of the logits: "tied" uses the target's table, "untied" has its own. "shared" and
    "tied" are the Transformer's one table in three places."""
    embedding_scale: Literal["none", "sqrt_embed"] = "sqrt_embed"
    """Factor of the embeddings: sqrt(embed) (Transformer), or "none" (T5)."""
    head_scale: Literal["none", "rsqrt_embed"] = "none"
    """Factor of the head's input: 1 / sqrt(embed) (T5 with a tied head), or "none"."""
    norm: NormPlace = "pre"
    """Place of the norms: "post" normalises the residual after each sublayer; "pre" what a sublayer
    reads, and the end of each side."""
    norm_kind: NormKind = "layer"
    """Kind of norm: "layer", or "rms" without mean and bias (T5)."""
    attention_scale: Literal["head_dim", "none"] = "head_dim"
    """Divisor of q.k: sqrt(head_dim), or "none" (T5)."""
    gating: Gating = "plain"
    """Form of the mlp: "plain", or "gated", where a second product multiplies the activation
    (https://arxiv.org/abs/2002.05202; T5 1.1 with gelu_tanh)."""
    activation: Activation = "relu"
    """Function between the products of the mlp."""
    biases: tuple[Bias, ...] = ()
    """Products with a bias: any of "qkv", "attention_out", "mlp", "head" (the logits)."""
    start: int = 0
    """Id the decoder reads first."""
    epsilon: float = 1e-6
    """Added to the variance in every norm."""
    embedding_dropout: float = 0.0
    """Dropout rate of the sums each side starts with; 0 = off."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights; 0 = off."""
    mlp_dropout: float = 0.0
    """Dropout rate between the mlp's products; 0 = off."""
    residual_dropout: float = 0.0
    """Dropout rate of each sublayer's output; 0 = off."""
    final_dropout: float = 0.0
    """Dropout rate of what each side ends with (T5); 0 = off."""
    init: Literal["fan_in", "fan_average"] = "fan_in"
    """Variance of a product's weights at the start: 1 / fan in ("fan_in"), or 1 / mean of fan in
    and out ("fan_average", Transformer). "fan_in" is T5's, whose queries also divide it by head_dim
    where attention_scale is "none"."""
    embed_std: float = 0.125
    """Standard deviation of the embeddings at the start."""
    init_factor: float = 1.0
    """Factor of every standard deviation at the start (T5's initializer_factor)."""
    remat: Remat = "none"
    """Values of each layer kept for the backward pass: "none" recomputes nothing, "full"
    everything. "dots" keeps weight products, the "save_" ones what they name. Change it when a step
    does not fit in memory."""
    unroll: int = 1
    """Layers in one turn of the scan over layers; more compile longer and may run faster."""

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        counts = ("vocab", "encoder_layers", "decoder_layers", "embed", "heads", "head_dim", "mlp")
        found = [
            f"model.{name} must be at least 1, not {getattr(self, name)}"
            for name in (*counts, "unroll")
            if getattr(self, name) < 1
        ]
        found += [
            f"model.{name} must be at least 0 and below 1, not {getattr(self, name)}"
            for name in _DROPOUTS
            if not 0 <= getattr(self, name) < 1
        ]
        if not 0 <= self.start < self.vocab:
            found.append(f"model.start {self.start} is no id of a vocab of {self.vocab}")
        if min(self.embed_std, self.init_factor, self.epsilon) <= 0:
            found.append("model.embed_std, init_factor and epsilon must be positive")
        return found + self._position_problems()

    def _position_problems(self) -> list[str]:
        found, kind = [], self.position_encoding
        if kind == "learned" and self.positions < 1:
            found.append("model.position_encoding learned needs model.positions, its longest row")
        if kind != "learned" and self.positions:
            found.append(
                f"model.positions {self.positions} has no effect with position_encoding {kind},"
                " which has no longest row; set it to 0"
            )
        if kind == "sinusoidal" and self.embed % 2:
            found.append(f"model.embed {self.embed} must be even for sines and cosines")
        buckets, furthest = self.relative_buckets, self.relative_distance
        if kind != "relative" and (buckets or furthest):
            found.append(
                f"model.relative_buckets {buckets} and relative_distance {furthest} need"
                " position_encoding relative"
            )
        # The encoder has a half for each direction, of which a half counts single places.
        if kind == "relative" and (buckets < 4 or furthest <= buckets // 2):
            found.append(
                f"model.relative_buckets {buckets} must be at least 4, and relative_distance"
                f" {furthest} more than half of them (T5: 32 and 128)"
            )
        return found

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return max(getattr(self, name) for name in _DROPOUTS) > 0

    @property
    def longest(self) -> int | None:
        """The most tokens a row of source or target may have; None: any number."""
        return self.positions or None

    @property
    def read_vocab(self) -> int:
        return self.vocab

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each letter of the alphabet in this model's parameters (S: positions, R:
        relative_buckets). Z is encoder_layers in the encoder and decoder_layers in the decoder."""
        return {
            "V": self.vocab,
            "S": self.positions,
            "R": self.relative_buckets,
            "D": self.embed,
            "N": self.heads,
            "H": self.head_dim,
            "F": self.mlp,
        }


_DROPOUTS = (
    "embedding_dropout",
    "attention_dropout",
    "mlp_dropout",
    "residual_dropout",
    "final_dropout",
)
