"""The GPT decoder's settings."""

from dataclasses import dataclass
from typing import Literal

AttentionKind = Literal["global", "local"]
Padding = Literal["row", "reach", "later"]
Bias = Literal["qkv", "attention_out", "mlp", "head"]
FUSED = ("cudnn", "splash")  # attention by a kernel, whose logits never leave the chip
Remat = Literal["none", "full", "dots", "save_attention", "save_qkv_attention_mlp"]
_DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout", "head_dropout")


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """One decoder for GPT-1, GPT-2, GPT-Neo, GPT-J and GPT-NeoX; the fields are their
    differences."""

    family: Literal["gpt"] = "gpt"
    """Names the family in a record; always "gpt" here."""
    vocab: int = 256
    """Rows of the table of tokens; at least the ids of the tokenizer, more to divide over a
    mesh."""
    positions: int = 128
    """Longest row in tokens, and the rows of the table of learned positions."""
    layers: int = 2
    """Number of blocks."""
    embed: int = 64
    """Width of the residual stream; a multiple of heads."""
    heads: int = 4
    """Attention heads of each layer; the head dim is embed / heads."""
    mlp: int = 256
    """Width between the two products of the mlp; usually 4 * embed."""
    position_encoding: Literal["learned", "rotary"] = "learned"
    """How a token knows its place: a table of "learned" positions, or "rotary" queries and keys."""
    rotary_dims: int = 0
    """Number of a head's dims that rotary positions turn; 0 with learned positions."""
    rotation: Literal["interleaved", "half"] = "interleaved"
    """Dims that turn as a pair: 2i and 2i + 1 ("interleaved", GPT-J), or i and i + rotary_dims / 2
    ("half", GPT-NeoX)."""
    rotary_base: float = 10000.0
    """Base of the wavelengths of rotary positions; raise it for longer rows."""
    block: Literal["sequential", "parallel", "parallel_shared_norm"] = "sequential"
    """How attention and mlp reach the residual: "sequential", "parallel" or "parallel_shared_norm".
    "parallel" adds both to the same residual, each behind its own norm (GPT-NeoX),
    "parallel_shared_norm" behind one (GPT-J)."""
    norm: Literal["pre", "post"] = "pre"
    """Place of the norms: "pre" normalises what a sublayer reads and ends with a norm; "post"
    normalises the residual after each sublayer, without a last norm (GPT-1)."""
    pattern: tuple[AttentionKind, ...] = ("global",)
    """Kinds of attention, cycled over the layers: "global", or "local" for the `window` latest
    tokens."""
    window: int = 0
    """Tokens that a local layer sees, the current one included; 0 without local layers."""
    attention_scale: Literal["head_dim", "head_dim_and_layer", "layer", "none"] = "head_dim"
    """Divisor of q.k: sqrt(head dim), that times the layer's number from 1 (GPT-2's
    scale_attn_by_inverse_layer_idx), the layer's number alone, or "none" (GPT-Neo)."""
    attention_logits: Literal["compute", "float32"] = "float32"
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
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"
    """Function between the two products of the mlp."""
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
    attention: Literal["dense", "blocks", "cudnn", "splash"] = "blocks"
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
        if self.position_encoding == "learned" and self.rotary_dims:
            found.append(f"model.rotary_dims {self.rotary_dims} needs position_encoding rotary")
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
        return self.positions

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
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters (S: positions)."""
        return {
            "V": self.vocab,
            "S": self.positions,
            "Z": self.layers,
            "D": self.embed,
            "N": self.heads,
            "H": self.head_dim,
            "F": self.mlp,
        } | ({"Y": self.labels} if self.labels else {})

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
