"""The words that several families' settings share, and what layers read of a config. No JAX."""

from typing import Literal, Protocol

AttentionKind = Literal["global", "local"]
AttentionScale = Literal["head_dim", "head_dim_and_layer", "layer", "none"]
Way = Literal["dense", "blocks", "cudnn", "splash"]
FUSED = ("cudnn", "splash")  # attention by a kernel, whose logits never leave the chip
Padding = Literal["row", "reach", "later"]
Logits = Literal["compute", "float32"]
Rotation = Literal["interleaved", "half"]
Bias = Literal["qkv", "attention_out", "mlp", "head"]
Activation = Literal["gelu_tanh", "gelu", "relu", "silu"]
Gating = Literal["plain", "gated"]
NormKind = Literal["layer", "rms"]
NormPlace = Literal["pre", "post"]
BlockShape = Literal["sequential", "parallel", "parallel_shared_norm"]
Remat = Literal["none", "full", "dots", "save_attention", "save_qkv_attention_mlp"]


class AttentionSettings(Protocol):
    """What `Attention` reads of any family's config."""

    @property
    def sizes(self) -> dict[str, int]: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def key_letter(self) -> Literal["N", "K"]: ...
    @property
    def biases(self) -> tuple[Bias, ...]: ...
    @property
    def attention_scale(self) -> AttentionScale: ...
    @property
    def attention_logits(self) -> Logits: ...
    @property
    def attention_dropout(self) -> float: ...
    @property
    def attention(self) -> Way: ...
    @property
    def padding(self) -> Padding: ...
    @property
    def window(self) -> int: ...
    @property
    def rotation(self) -> Rotation: ...


class PlainAttention:
    """Base class of a config whose family varies none of these: each query head has its keys, and
    nothing but segments hides them."""

    key_letter: Literal["N", "K"] = "N"
    attention_logits: Logits = "float32"
    attention: Way = "dense"
    padding: Padding = "row"
    window: int = 0
    rotation: Rotation = "interleaved"


class NormSettings(Protocol):
    """What `make_norm` reads of any family's config."""

    @property
    def sizes(self) -> dict[str, int]: ...
    @property
    def norm_kind(self) -> NormKind: ...
    @property
    def epsilon(self) -> float: ...


class BlockSettings(AttentionSettings, NormSettings, Protocol):
    """What `Block` and the loops over stacked blocks read of any family's config."""

    @property
    def layers(self) -> int: ...
    @property
    def embed(self) -> int: ...
    @property
    def block(self) -> BlockShape: ...
    @property
    def norm(self) -> NormPlace: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def gating(self) -> Gating: ...
    @property
    def hidden_std(self) -> float: ...
    @property
    def residual_std(self) -> float: ...
    @property
    def embedding_dropout(self) -> float: ...
    @property
    def residual_dropout(self) -> float: ...
    @property
    def remat(self) -> Remat: ...
    @property
    def unroll(self) -> int: ...


class TextHeadSettings(Protocol):
    """What a decoder's head of labels reads of its config."""

    @property
    def sizes(self) -> dict[str, int]: ...
    @property
    def embed(self) -> int: ...
    @property
    def init_std(self) -> float: ...
    @property
    def pooling(self) -> Literal["last", "concat"]: ...
    @property
    def head_dropout(self) -> float: ...
