"""What all GPT configs share: spellings, one reader, what is expressed, biases and activations.

Written with the keys of transformers 4, which transformers 5, CTranslate2 and llama.cpp read too
(the reverse is not so: transformers 4 reads NeoX's rope_parameters as rotary_pct 0.25 without a
word). Dropout rates are carried over; NeoX and GPT-1 have fewer of them than we do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible, Rule
from gesso.export.tables.fields import Fields
from gesso.models.gpt.config import Bias, GPTConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
SPELLED = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"}
ALL_BIASES: tuple[Bias, ...] = ("qkv", "attention_out", "mlp")
# Fields of the model's computation, start and training, which no output depends on. padding: what a
# query that sees no key averages, which no document reads.
_NEUTRAL = frozenset(
    (
        *(
            "remat",
            "unroll",
            "attention",
            "attention_logits",
            "padding",
            "init_std",
            "residual_init",
            "mup_base",
        ),
        *("embedding_dropout", "attention_dropout", "residual_dropout", "head_dropout"),
    )
)
_FIELDS = ("vocab", "positions", "layers", "embed", "heads", "mlp", "head", "activation", "epsilon")


def neutral(config: GPTConfig) -> frozenset[str]:
    """The fields that change no output of this config."""
    idle = set[str]()
    if config.position_encoding == "learned":
        idle |= {"rotation", "rotary_base"}
    if "local" not in config.kinds:
        idle |= {"pattern", "window"}
    return _NEUTRAL | idle


def expressible(
    model_type: str,
    *,
    fields: Sequence[str] = (),
    only: Mapping[str, Sequence[Any]],
    rules: Mapping[str, Rule],
) -> Expressible:
    """The declaration of a published GPT, which may have a head for labels (gpt_labels)."""
    return Expressible(
        format=model_type,
        family="gpt",
        fields=(*_FIELDS, *fields, "labels"),
        only={"activation": list(SPELLED), **only},
        rules={
            **({} if "pattern" in fields else {"pattern": global_only}),
            "outputs": labels_of_tied,
            "pooling": labels_of_last,
            **rules,
        },
        neutral=neutral,
    )


def global_only(config: GPTConfig) -> str:
    """The rule of a format without local attention."""
    return "only gpt_neo has local attention" if "local" in config.kinds else ""


def biases_only(*allowed: Sequence[str]) -> Rule:
    """The rule of a format with one of these sets of biases."""

    def problem(config: GPTConfig) -> str:
        if set(config.biases) in [set(each) for each in allowed]:
            return ""
        return f"it can only be {' or '.join(str(tuple(each)) for each in allowed)}"

    return problem


def labels_of_tied(config: GPTConfig) -> str:
    """The rule of labels: their classes in transformers leave the language model's head out."""
    if not config.outputs or (config.head == "tied" and "head" not in config.biases):
        return ""
    return (
        "labels (ForSequenceClassification) go with model.head tied, without a bias, not"
        f" {config.head} with biases {config.biases}"
    )


def labels_of_last(config: GPTConfig) -> str:
    """The rule of what labels are read from."""
    if config.pooling == "last":
        return ""
    return "labels (ForSequenceClassification) go with model.pooling last"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """How one organisation spells the sizes, rates and widths of a GPT in config.json. "": it has
    no such field, and the model 1e-5 (epsilon) or no such dropout."""

    positions: str = "max_position_embeddings"
    embed: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    epsilon: str = "layer_norm_epsilon"
    init_std: str = "initializer_range"
    embedding_dropout: str = ""
    attention_dropout: str = "attention_dropout"
    residual_dropout: str = ""


def read_shared(f: Fields, keys: Keys, *, dropout: float, tied: bool) -> Record:
    """The settings of a GPTConfig that every format has. dropout, tied: where it says nothing."""
    f.only("is_encoder_decoder", False)
    f.only("tie_encoder_decoder", False)
    f.only("pruned_heads", {}, None)

    def rate(key: str) -> float:
        return f.number(key, dropout) if key else 0.0

    return {
        "vocab": f.integer("vocab_size"),
        "positions": f.integer(keys.positions),
        "layers": f.integer(keys.layers),
        "embed": f.integer(keys.embed),
        "heads": f.integer(keys.heads),
        "epsilon": f.number(keys.epsilon, 1e-5) if keys.epsilon else 1e-5,
        "init_std": f.number(keys.init_std, 0.02),
        "embedding_dropout": rate(keys.embedding_dropout),
        "attention_dropout": rate(keys.attention_dropout),
        "residual_dropout": rate(keys.residual_dropout),
        "head": _head(f.switch("tie_word_embeddings", tied)),
    }


def decodes(f: Fields, *, cross: bool = False) -> None:
    """Refuse what is not a decoder. cross: whether it is the decoder of an encoder-decoder."""
    f.only("is_decoder", *([True] if cross else [False, True]))  # alone it decodes anyway
    f.only("add_cross_attention", cross)


def inner_width(f: Fields, name: str, embed: int) -> int:
    """The mlp's width; null or 0 is the usual four times the model's."""
    return f.integer(name) if f.value(name, None) else 4 * embed


def inner_size(config: GPTConfig) -> int | None:
    """The mlp's width, or None where it is the usual four times the model's."""
    return None if config.mlp == 4 * config.embed else config.mlp


def _head(tied: bool) -> Literal["tied", "untied"]:
    return "tied" if tied else "untied"
