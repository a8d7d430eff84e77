"""BERT's and RoBERTa's settings."""

from dataclasses import dataclass
from typing import Literal

from gesso.models.gpt.config import GPTConfig, Remat

Output = Literal["mlm", "nsp", "pooler", "classify", "tag", "span"]


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """One encoder for BERT (https://arxiv.org/abs/1810.04805) and RoBERTa
    (https://arxiv.org/abs/1907.11692); the fields are their differences.

    positions: rows of the table of learned positions. first_position: the row of a document's first
        token: 0, or 2 in RoBERTa, which counts from its padding id + 1. A row may be as long as
        what remains.
    token_types: rows of the table of token types (first and second text); 0: there is none.
    outputs: what the model has beside its features: "mlm" (logits of masked tokens), "nsp" (whether
        the second text follows the first), "pooler" (the pooled first token alone), "classify" (one
        label per text), "tag" (one per token), "span" (where an answer starts and ends). "nsp" and
        "classify" read the pooler, which they bring.
    labels: of "classify" and "tag"; 1 in "classify" is a regression.
    head: "tied" gives "mlm" the table of the embeddings.
    epsilon: of the norms, added to the variance.
    embedding_dropout: behind the first norm. attention_dropout: of the attention weights.
        residual_dropout: of each sublayer's output. head_dropout: of what "classify" and "tag"
        read.
    init: how weights are drawn with standard deviation `init_std`: "truncated" draws again what
        lies beyond two of them (BERT), "normal" does not (RoBERTa).
    remat, unroll, attention: as in GPTConfig.
    """

    family: Literal["bert"] = "bert"
    vocab: int = 256
    positions: int = 128
    first_position: int = 0
    token_types: int = 2
    layers: int = 2
    embed: int = 64
    heads: int = 4
    mlp: int = 256
    outputs: tuple[Output, ...] = ("mlm",)
    labels: int = 0
    head: Literal["tied", "untied"] = "tied"
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    epsilon: float = 1e-12
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    head_dropout: float = 0.0
    init_std: float = 0.02
    init: Literal["truncated", "normal"] = "truncated"
    remat: Remat = "none"
    unroll: int = 1
    attention: Literal["dense", "blocks", "cudnn"] = "blocks"

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
    def sizes(self) -> dict[str, int]:
        """The size each letter of the alphabet has in this model's parameters (S: positions)."""
        return self.blocks.sizes | {"T": self.token_types, "Y": self.labels}
