"""The GPT decoder's settings."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from gesso.models.facts import Facts
from gesso.models.layers.settings import (
    FUSED,
    Activation,
    AttentionKind,
    AttentionScale,
    Bias,
    BlockShape,
    Gating,
    Logits,
    NormKind,
    NormPlace,
    Padding,
    Remat,
    Rotation,
    Way,
)

_DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout", "head_dropout")


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Facts):
    """One decoder for GPT-1, GPT-2, GPT-Neo, GPT-J and GPT-NeoX; the fields are their
    differences."""

    adapters: ClassVar[tuple[str, ...]] = ("lora", "ia3", "prompt", "p_tuning", "prefix")

    family: Literal["gpt"] = "gpt"
    """Names the family in a record; always "gpt" here."""
    vocab: int = 256
    """Rows of the table of tokens: the tokenizer's ids, or more. More divide over a mesh, or take
    new tokens."""
    positions: int = 128
    """Rows of the table of learned positions; with rotary ones the longest row in tokens."""
    first_position: int = 0
    """Row of learned positions that a document's first token reads; a row of tokens may be as long
    as what remains (OPT: 2)."""
    layers: int = 2
    """Number of blocks."""
    embed: int = 64
    """Width of the residual stream; a multiple of heads."""
    word_embed: int = 0
    """Width of the table of tokens where it is not embed: products without a bias go in and out of
    the residual stream (OPT 350M); 0 = embed."""
    heads: int = 4
    """Attention heads of a layer; embed / heads is the head dim."""
    key_heads: int = 0
    """Heads of keys and values, each shared by heads / key_heads query heads (grouped queries,
    https://arxiv.org/abs/2305.13245); 0 = one for each."""
    mlp: int = 256
    """Width between the two products of the mlp; usually 4 * embed."""
    position_encoding: Literal["learned", "rotary"] = "learned"
    """How a token knows its place: a table of "learned" positions, or "rotary" queries and keys."""
    rotary_dims: int = 0
    """Number of a head's dims that rotary positions turn; 0 with learned positions."""
    rotation: Rotation = "interleaved"
    """Dims that turn as a pair: 2i and 2i + 1 ("interleaved", GPT-J), or i and i + rotary_dims / 2
    ("half", GPT-NeoX)."""
    rotary_base: float = 10000.0
    """Base of the wavelengths of rotary positions; raise it for longer rows."""
    block: BlockShape = "sequential"
    """How attention and mlp reach the residual: "sequential", "parallel" or "parallel_shared_norm".
    "parallel" adds both to the same residual, each behind its own norm (GPT-NeoX),
    "parallel_shared_norm" behind one (GPT-J)."""
    norm: NormPlace = "pre"
    """Place of the norms: "pre" normalises what a sublayer reads and ends with a norm; "post"
    normalises the residual after each sublayer, without a last norm (GPT-1)."""
    final_norm: Literal["pre", "none"] = "pre"
    """Norm behind the last block: "pre" has one where the other norms are pre; "none" never."""
    norm_kind: NormKind = "layer"
    """Every norm: "layer", or "rms", the root mean square without a mean and a bias (Llama)."""
    pattern: tuple[AttentionKind, ...] = ("global",)
    """Kinds of attention, cycled over the layers: "global", or "local" for the `window` latest
    tokens."""
    window: int = 0
    """Tokens that a local layer sees, the current one included; 0 without local layers."""
    attention_scale: AttentionScale = "head_dim"
    """Divisor of q.k: sqrt(head dim), that times the layer's number from 1 (GPT-2's
    scale_attn_by_inverse_layer_idx), the layer's number alone, or "none" (GPT-Neo)."""
    attention_logits: Logits = "float32"
    """Dtype of q.k before the softmax, which is always float32; "compute" is precision.compute."""
    padding: Padding = "row"
    """Keys that a padding query averages: "row", "reach" or "later"; documents never read the
    result, a published loss of left-padded rows does. "row": the whole row (fused kernels take
    padding alone, "blocks" what it has read of the row); "reach": the places a real token would
    reach (GPT-Neo); "later": the real tokens after it (GPT-1)."""
    biases: tuple[Bias, ...] = ("qkv", "attention_out", "mlp")
    """Products with a bias: any of "qkv", "attention_out", "mlp", "head"."""
    head: Literal["tied", "untied"] = "tied"
    """Weights of the logits: "tied" uses the table of tokens, "untied" has its own."""
    outputs: tuple[Literal["classify"], ...] = ()
    """Heads beside the language model's: "classify" predicts one of `labels` labels of a text."""
    labels: int = 0
    """Number of labels of "classify"; 1 = a number (regression), 0 without that head."""
    pooling: Literal["last", "concat"] = "last"
    """Features of a text that "classify" reads: "last" or "concat" (models/layers/text_head.py)."""
    activation: Activation = "gelu_tanh"
    """Function between the products of the mlp."""
    gating: Gating = "plain"
    """Shape of the mlp: "plain" has two products, "gated" a third whose activation multiplies the
    first (Llama's with silu)."""
    epsilon: float = 1e-5
    """Added to the variance in every norm."""
    embedding_dropout: float = 0.0
    """Dropout rate of the embeddings' sum; 0 = off."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights; 0 = off."""
    residual_dropout: float = 0.0
    """Dropout rate of each sublayer's output; 0 = off."""
    head_dropout: float = 0.0
    """Dropout rate of what "classify" reads; 0 = off."""
    init_std: float = 0.02
    """Standard deviation of the weights at the start."""
    residual_init: Literal["same", "layers", "depth", "wang"] = "same"
    """Start of the two products that write to the residual: "same", "layers", "depth" or "wang".
    "same" = init_std, "layers" = init_std / sqrt(layers) (GPT-Neo), "depth" = init_std / sqrt(2
    layers) (GPT-2), "wang" = 2 / (layers sqrt(embed)) (GPT-J, GPT-NeoX)."""
    mup_base: int = 0
    """Width (embed) at which muP equals the standard parametrisation; 0 = no muP. In muP
    (https://arxiv.org/abs/2203.03466, table 3) weights between hidden dims start smaller by
    sqrt(mup_base / embed), the head by mup_base / embed, and both learn slower by mup_base / embed
    (pretrain/optimizer/mup.py), so that the best learning rate of a narrow model serves a wide one.
    Widen by more heads, not by wider ones."""
    remat: Remat = "none"
    """Values of each layer kept for the backward pass: "none" recomputes nothing, "full"
    everything. "dots" keeps weight products, the "save_" ones what they name. Change it when a step
    does not fit in memory."""
    unroll: int = 1
    """Periods of the pattern in one turn of the scan over layers; more compile longer and may run
    faster."""
    attention: Way = "blocks"
    """Attention kernel; "blocks" runs everywhere. It takes 128 queries at a time and skips keys
    that none of them sees; "dense" takes all at once; "cudnn" is NVIDIA's fused kernel (16-bit
    compute), "splash" the TPU's (rows of a multiple of 128, elsewhere "blocks"). Both keep float32
    logits and have no dropout."""

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        found = [
            f"model.{name} must be at least 1, not {getattr(self, name)}"
            for name in ("vocab", "positions", "layers", "embed", "heads", "mlp", "unroll")
            if getattr(self, name) < 1
        ]
        found += [
            f"model.{name} must be at least 0 and below 1, not {getattr(self, name)}"
            for name in _DROPOUTS
            if not 0 <= getattr(self, name) < 1
        ]
        if self.heads > 0 and self.embed % self.heads:
            found.append(f"model.embed {self.embed} does not divide over {self.heads} heads")
        elif self.position_encoding == "rotary" and (
            not 0 < self.rotary_dims <= self.head_dim or self.rotary_dims % 2
        ):
            found.append(
                f"model.rotary_dims {self.rotary_dims} must be even, above 0 and at most the head"
                f" dim {self.head_dim}"
            )
        shares = self.key_heads and (self.heads % self.key_heads or self.key_heads == self.heads)
        if self.key_heads < 0 or shares:
            found.append(
                f"model.key_heads {self.key_heads} must be fewer than the {self.heads} heads and"
                " divide them, or be 0"
            )
        if not 0 <= self.first_position < max(1, self.positions):
            found.append(
                f"model.first_position {self.first_position} leaves no row of the"
                f" {self.positions} positions"
            )
        if self.position_encoding == "rotary" and self.first_position:
            found.append("model.first_position has no effect with position_encoding rotary")
        if self.word_embed < 0 or self.word_embed == self.embed:
            found.append("model.word_embed must be a width other than model.embed, or 0")
        if self.position_encoding == "learned" and self.rotary_dims:
            found.append(f"model.rotary_dims {self.rotary_dims} needs position_encoding rotary")
        if self.word_embed and self.outputs:
            found.append('model.outputs "classify" has no head for model.word_embed')
        if self.mup_base and (self.word_embed or self.key_heads):
            found.append(
                "model.mup_base has no rule for model.word_embed and model.key_heads; set it to 0"
            )
        if self.norm == "post" and self.final_norm == "none":
            found.append("model.final_norm none has no effect with model.norm post")
        if self.norm == "post" and self.block != "sequential":
            found.append(f"model.norm post needs a sequential block, not {self.block}")
        if not self.pattern or ("local" in self.pattern) != (self.window > 0):
            found.append(
                f"model.pattern {self.pattern} and model.window {self.window} contradict each"
                " other: local layers need a window of at least 1, global ones take none (0)"
            )
        if (self.labels > 0) != bool(self.outputs) or self.labels < 0:
            found.append(
                f"model.labels {self.labels} and model.outputs {self.outputs} contradict each"
                ' other: "classify" has at least 1 label'
            )
        if not self.outputs and (self.head_dropout or self.pooling != "last"):
            found.append(
                'model.head_dropout and model.pooling have no effect without "classify" in'
                " model.outputs"
            )
        if self.mup_base < 0 or self.mup_base and self.head == "tied":
            found.append(
                f"model.mup_base {self.mup_base} must be 0 or a width, with --model.head untied: a"
                " tied table cannot start as an embedding and as a head at once"
            )
        fused = self.attention in FUSED
        if fused and self.attention_dropout:
            found.append(
                f"model.attention {self.attention} has no attention_dropout: set it to 0, or use"
                " blocks"
            )
        if fused and self.padding != "row":
            found.append(
                f"model.attention {self.attention} has no padding {self.padding}: set it to row (no"
                " document changes), or use blocks"
            )
        return found

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return any(getattr(self, name) > 0 for name in _DROPOUTS)

    @property
    def longest(self) -> int:
        """The most tokens a row may have."""
        return self.positions - self.first_position

    @property
    def narrowing(self) -> float:
        """The base width over this one, where muP is on; else 1."""
        return self.mup_base / self.embed if self.mup_base else 1.0

    @property
    def hidden_std(self) -> float:
        """The standard deviation at the start of weights between hidden dims."""
        return self.init_std * self.narrowing**0.5

    @property
    def head_std(self) -> float:
        """The same of an untied head."""
        return self.init_std * self.narrowing

    @property
    def residual_std(self) -> float:
        """The standard deviation of the products that write to the residual stream."""
        return {
            "same": self.hidden_std,
            "layers": self.hidden_std / self.layers**0.5,
            "depth": self.hidden_std / (2 * self.layers) ** 0.5,
            "wang": 2 / (self.layers * self.embed**0.5),
        }[self.residual_init]

    @property
    def key_letter(self) -> Literal["N", "K"]:
        """The letter of keys' and values' heads: K where queries share them."""
        return "K" if self.key_heads else "N"

    @property
    def word_letter(self) -> Literal["D", "E"]:
        """The letter of the width of the table of tokens: E where it is its own."""
        return "E" if self.word_embed else "D"

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def read_vocab(self) -> int:
        return self.vocab

    @property
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters (S: positions)."""
        sizes = {
            "V": self.vocab,
            "S": self.positions,
            "Z": self.layers,
            "D": self.embed,
            "N": self.heads,
            "H": self.head_dim,
            "F": self.mlp,
        }
        own = {"Y": self.labels, "E": self.word_embed, "K": self.key_heads}
        return sizes | {letter: size for letter, size in own.items() if size}

    @property
    def kinds(self) -> tuple[AttentionKind, ...]:
        """The kind of attention of every layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.layers))

    @property
    def period(self) -> tuple[AttentionKind, ...]:
        """The shortest run of layers whose repetition is the whole stack: one turn of the scan."""
        kinds = self.kinds
        return next(
            kinds[:n]
            for n in range(1, self.layers + 1)
            if self.layers % n == 0 and kinds == kinds[:n] * (self.layers // n)
        )
