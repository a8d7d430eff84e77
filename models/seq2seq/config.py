"""The settings of the Transformer encoder-decoder and of T5."""

from dataclasses import dataclass
from typing import Literal

from gesso.models.gpt.config import Bias, Remat


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """One encoder-decoder for the Transformer (https://arxiv.org/abs/1706.03762) and T5
    (https://arxiv.org/abs/1910.10683); the fields are their differences.

    head_dim: of queries, keys and values; T5's is not always embed / heads.
    position_encoding: "sinusoidal" and "learned" are added to the embeddings ("learned": a table of
        `positions` rows for each side; rows may not be longer). "relative" adds a number to q.k for
        each head and each of `relative_buckets` distances, the furthest `relative_distance` and
        beyond; all layers of a side share them, cross-attention has none (T5).
    embedding: whether source and target share a table. head: "tied" uses the target's table, so
        that "shared" and "tied" are the Transformer's one table in three places.
    embedding_scale: what embeddings are multiplied by: sqrt(embed) (Transformer) or nothing (T5).
    head_scale: what the head's input is multiplied by: 1 / sqrt(embed) (T5 with a tied head) or
        nothing.
    norm: "post" normalises the residual after each sublayer; "pre" what a sublayer reads, and the
        end of each side. norm_kind: "layer", or "rms" without mean and bias (T5).
    attention_scale: what q.k is divided by: sqrt(head_dim), or nothing (T5).
    gating: "gated" multiplies the activation by a second product (https://arxiv.org/abs/2002.05202;
        T5 1.1 with gelu_tanh).
    biases: which products have one ("head": the logits).
    start: the id the decoder reads first.
    embedding_dropout, residual_dropout: of the sums each side starts with, and of each sublayer's
        output. attention_dropout, mlp_dropout: of the attention weights, and of what lies between
        the mlp's products. final_dropout: of what each side ends with (T5).
    init: the variance of a product's weights: 1 / fan in (T5, whose queries divide it by head_dim
        where attention_scale is "none") or 1 / mean of fan in and out (Transformer). embed_std:
        standard deviation of the embeddings. init_factor multiplies every standard deviation
        (T5's initializer_factor).
    remat, unroll: as in GPTConfig.
    """

    family: Literal["seq2seq"] = "seq2seq"
    vocab: int = 256
    positions: int = 0
    encoder_layers: int = 2
    decoder_layers: int = 2
    embed: int = 64
    heads: int = 4
    head_dim: int = 16
    mlp: int = 256
    position_encoding: Literal["sinusoidal", "learned", "relative"] = "sinusoidal"
    relative_buckets: int = 0
    relative_distance: int = 0
    embedding: Literal["shared", "separate"] = "shared"
    head: Literal["tied", "untied"] = "tied"
    embedding_scale: Literal["none", "sqrt_embed"] = "sqrt_embed"
    head_scale: Literal["none", "rsqrt_embed"] = "none"
    norm: Literal["pre", "post"] = "pre"
    norm_kind: Literal["layer", "rms"] = "layer"
    attention_scale: Literal["head_dim", "none"] = "head_dim"
    gating: Literal["plain", "gated"] = "plain"
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    biases: tuple[Bias, ...] = ()
    start: int = 0
    epsilon: float = 1e-6
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    residual_dropout: float = 0.0
    final_dropout: float = 0.0
    init: Literal["fan_in", "fan_average"] = "fan_in"
    embed_std: float = 0.125
    init_factor: float = 1.0
    remat: Remat = "none"
    unroll: int = 1

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
