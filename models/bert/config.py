"""BERT's and RoBERTa's settings."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from gesso.models.facts import Architecture, Facts, Stage
from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.settings import Remat

Output = Literal["mlm", "nsp", "pooler", "classify", "tag", "span"]


@dataclass(frozen=True, kw_only=True)
class BERTConfig(Facts):
    """One encoder for BERT (https://arxiv.org/abs/1810.04805) and RoBERTa
    (https://arxiv.org/abs/1907.11692); the fields are their differences."""

    architecture: ClassVar[Architecture] = "encoder"
    pretraining: ClassVar[Stage] = "masked"
    adapters: ClassVar[tuple[str, ...]] = ("lora", "ia3", "p_tuning", "prefix", "focus")

    family: Literal["bert"] = "bert"
    """Names the family in a record; always "bert" here."""
    vocab: int = 256
    """Rows of the table of tokens: the tokenizer's ids, or more. More divide over a mesh, or take
    new tokens."""
    positions: int = 128
    """Rows of the table of learned positions; the longest row is positions - first_position."""
    first_position: int = 0
    """Position of a document's first token: 0, or 2 in RoBERTa, which counts from its padding id +
    1."""
    token_types: int = 2
    """Rows of the table of token types (first and second text); 0 = no such table."""
    layers: int = 2
    """Number of blocks."""
    embed: int = 64
    """Width of the residual stream; a multiple of heads."""
    heads: int = 4
    """Attention heads of a layer; embed / heads is the head dim."""
    mlp: int = 256
    """Width between the two products of the mlp; usually 4 * embed."""
    outputs: tuple[Output, ...] = ("mlm",)
    """Heads of the model: any of "mlm", "nsp", "pooler", "classify", "tag", "span". "mlm": logits
    of masked tokens; "nsp": whether the second text follows the first; "pooler": the pooled first
    token alone; "classify": one label per text; "tag": one per token; "span": start and end of an
    answer. "nsp" and "classify" read the pooler, and bring it."""
    labels: int = 0
    """Number of labels of "classify" and "tag"; 1 in "classify" = a number (regression), 0 without
    these heads."""
    head: Literal["tied", "untied"] = "tied"
    """Weights of the logits of "mlm": "tied" uses the table of tokens, "untied" has its own."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """Function between the two products of the mlp."""
    epsilon: float = 1e-12
    """Added to the variance in every norm."""
    embedding_dropout: float = 0.0
    """Dropout rate behind the first norm; 0 = off."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights; 0 = off."""
    residual_dropout: float = 0.0
    """Dropout rate of each sublayer's output; 0 = off."""
    head_dropout: float = 0.0
    """Dropout rate of what "classify" and "tag" read; 0 = off."""
    init_std: float = 0.02
    """Standard deviation of the weights at the start."""
    init: Literal["truncated", "normal"] = "truncated"
    """Distribution of the weights at the start: "truncated" draws again beyond two standard
    deviations (BERT), "normal" does not (RoBERTa)."""
    remat: Remat = "none"
    """Values of each layer kept for the backward pass: "none" recomputes nothing, "full"
    everything. "dots" keeps weight products, the "save_" ones what they name. Change it when a step
    does not fit in memory."""
    unroll: int = 1
    """Layers in one turn of the scan over layers; more compile longer and may run faster."""
    attention: Literal["dense", "blocks", "cudnn"] = "blocks"
    """Attention kernel; "blocks" runs everywhere. It takes 128 queries at a time and skips keys
    that none of them sees; "dense" takes all at once; "cudnn" is NVIDIA's fused kernel (16-bit
    compute), with float32 logits and no dropout."""

    def problems(self) -> list[str]:
        """What is wrong with these fields, together; empty when a model can be built of them."""
        found = self.blocks.problems()
        if not 0 <= self.head_dropout < 1:
            found.append(
                f"model.head_dropout must be at least 0 and below 1, not {self.head_dropout}"
            )
        if not 0 <= self.first_position < max(1, self.positions):
            found.append(
                f"model.first_position {self.first_position} leaves no row of the"
                f" {self.positions} positions"
            )
        if self.token_types < 0:
            found.append(f"model.token_types must be at least 0, not {self.token_types}")
        if len(set(self.outputs)) < len(self.outputs):
            found.append(f"model.outputs {self.outputs} names one twice")
        labelled = {"classify", "tag"} & set(self.outputs)
        if (self.labels > 0) != bool(labelled) or self.labels < 0:
            found.append(
                f"model.labels {self.labels} and model.outputs {self.outputs} contradict each"
                ' other: "classify" and "tag" have at least 1, the others none (0)'
            )
        if "mlm" not in self.outputs and self.head == "untied":
            found.append('model.head untied has no effect without "mlm" in model.outputs')
        if not labelled and self.head_dropout > 0:
            found.append(
                f"model.head_dropout {self.head_dropout} has no effect without"
                ' "classify" or "tag" in model.outputs; set it to 0'
            )
        if min(self.epsilon, self.init_std) <= 0:
            found.append("model.epsilon and model.init_std must be positive")
        return found

    @property
    def drops(self) -> bool:
        """Whether a training step draws random numbers."""
        return self.blocks.drops or self.head_dropout > 0

    @property
    def longest(self) -> int:
        """The most tokens a row may have."""
        return self.positions - self.first_position

    @property
    def pools(self) -> bool:
        """Whether there is a pooler."""
        return bool({"pooler", "nsp", "classify"} & set(self.outputs))

    @property
    def blocks(self) -> GPTConfig:
        """The settings of the blocks: GPT-1's, which took them from the same paper, but for who
        sees whom."""
        return GPTConfig(
            vocab=self.vocab,
            positions=self.positions,
            layers=self.layers,
            embed=self.embed,
            heads=self.heads,
            mlp=self.mlp,
            norm="post",
            activation=self.activation,
            epsilon=self.epsilon,
            embedding_dropout=self.embedding_dropout,
            attention_dropout=self.attention_dropout,
            residual_dropout=self.residual_dropout,
            init_std=self.init_std,
            remat=self.remat,
            unroll=self.unroll,
            attention=self.attention,
        )

    @property
    def read_vocab(self) -> int:
        return self.vocab

    @property
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters (S: positions)."""
        return self.blocks.sizes | {"T": self.token_types, "Y": self.labels}
