"""BERT's and RoBERTa's settings, and how a published config.json says them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.gpt_config import GPTConfig, Remat

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


# Architectures as published configs name them -> what they put out.
_OUTPUTS: Mapping[str, tuple[Output, ...]] = {
    "Model": ("pooler",),
    "ForPreTraining": ("mlm", "nsp"),
    "ForMaskedLM": ("mlm",),
    "LMHeadModel": ("mlm",),
    "ForCausalLM": ("mlm",),
    "ForNextSentencePrediction": ("nsp",),
    "ForSequenceClassification": ("classify",),
    "ForTokenClassification": ("tag",),
    "ForQuestionAnswering": ("span",),
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_ROBERTAS = ("roberta", "xlm-roberta", "camembert")
# Fields of published configs that change no number of the forward pass.
_NAMES = """
    model_type architectures transformers_version dtype torch_dtype _name_or_path use_cache
    tokenizer_class bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id
    finetuning_task problem_type return_dict output_attentions output_hidden_states torchscript
    gradient_checkpointing chunk_size_feed_forward pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head output_past eos_token_ids _num_labels tf_legacy_loss
    """
_WITHOUT_EFFECT = frozenset(_NAMES.split())


def from_published(
    record: Mapping[str, Any],
    *,
    outputs: tuple[Output, ...] | None = None,
    role: Literal["encoder", "decoder"] = "encoder",
) -> BERTConfig:
    """The config of a config.json of BERT or RoBERTa.

    outputs: None takes what `architectures` names, and without it, as in the first release, what
    BERT was pretrained with. role: "decoder" is that of an encoder-decoder. Raises ValueError
    naming every field, or value of one, that cannot be honoured.
    """
    read = _Reader(record)
    kind = record.get("model_type", "bert")
    if kind not in ("bert", *_ROBERTAS):
        read.problems.append(f"model_type {kind!r} is not bert or {' or '.join(_ROBERTAS)}")
    roberta = kind in _ROBERTAS
    outputs = read.outputs() if outputs is None else outputs
    dropout = read("hidden_dropout_prob", 0.1)
    head_dropout = read("classifier_dropout", None)
    labelled = bool({"classify", "tag"} & set(outputs))
    labels = read("num_labels", len(read("id2label", None) or "xy"))
    read("label2id", None)
    read.only("position_embedding_type", "absolute")
    read.only("directionality", "bidi")
    read.only("pooler_type", "first_token_transform")
    read.only("is_encoder_decoder", False)
    read.only("is_decoder", role == "decoder")
    read.only("add_cross_attention", role == "decoder")
    read.only("cross_attention_hidden_size", None)
    read.only("pruned_heads", {}, None)
    config = BERTConfig(
        vocab=read("vocab_size"),
        positions=read("max_position_embeddings"),
        first_position=record.get("pad_token_id", 1) + 1 if roberta else 0,
        token_types=read("type_vocab_size", 2),
        layers=read("num_hidden_layers"),
        embed=read("hidden_size"),
        heads=read("num_attention_heads"),
        mlp=read("intermediate_size"),
        outputs=outputs,
        labels=labels if labelled else 0,
        head="tied" if read("tie_word_embeddings", True) or "mlm" not in outputs else "untied",
        activation=read.choice("hidden_act", _ACTIVATIONS, "gelu"),
        epsilon=read("layer_norm_eps", 1e-12),
        embedding_dropout=dropout,
        attention_dropout=read("attention_probs_dropout_prob", 0.1),
        residual_dropout=dropout,
        head_dropout=(dropout if head_dropout is None else head_dropout) if labelled else 0.0,
        init_std=read("initializer_range", 0.02),
        init="normal" if roberta else "truncated",
    )
    read.close()
    return config


class _Reader:
    """A record's fields, each asked for by name; what nobody asked for is a problem."""

    def __init__(self, record: Mapping[str, Any]):
        self.record, self.problems = record, list[str]()
        self.left = set(record) - _WITHOUT_EFFECT

    def __call__(self, name: str, *default: Any) -> Any:
        self.left.discard(name)
        if name not in self.record and not default:
            self.problems.append(f"{name} is missing")
            return 1
        return self.record.get(name, *default)

    def only(self, name: str, *allowed: Any) -> None:
        if (value := self(name, allowed[0])) not in allowed:
            self.problems.append(f"{name} {value!r} is not supported, only {allowed[0]!r}")

    def choice(self, name: str, known: Mapping[str, Any], default: str) -> Any:
        if (value := self(name, default)) not in known:
            self.problems.append(f"{name} {value!r} is not supported, only {', '.join(known)}")
            return known[default]
        return known[value]

    def outputs(self) -> tuple[Output, ...]:
        asked = self.record.get("architectures") or ["BertForPreTraining"]
        for prefix in ("Bert", "XLMRoberta", "Roberta", "Camembert"):
            if asked[0].startswith(prefix) and asked[0][len(prefix) :] in _OUTPUTS:
                return _OUTPUTS[asked[0][len(prefix) :]]
        self.problems.append(f"architectures {asked} is not known")
        return ()

    def close(self) -> None:
        unknown = [f"{name} is a field that is not known" for name in sorted(self.left)]
        if found := self.problems + unknown:
            raise ValueError("this config cannot be honoured: " + "; ".join(found))
