"""T5, T5 1.1 and FLAN-T5 as published: names, config.json both ways, what is tied.

transformers 5 writes tie_word_embeddings: true into every T5 config, so the tensors decide: a
lm_head.weight that differs from the table is a head of its own. Whether logits are scaled by
embed^-0.5 is scale_decoder_outputs, and in files of before it, tie_word_embeddings.
"""

import re
from typing import Any

from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.seq2seq.config import Seq2SeqConfig

_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu"}
_SHARED = "shared.weight"


def read(f: Fields) -> Seq2SeqConfig:
    """Their config to ours. One dropout_rate is all of our five."""
    f.harmless("n_positions", "output_past", "classifier_dropout")
    f.only("is_decoder", False)
    f.only("is_encoder_decoder", True)
    f.only("add_cross_attention", False)
    f.only("pruned_heads", {}, None)
    layers, dropout = f.integer("num_layers"), f.number("dropout_rate", 0.1)
    gating, activation = _feed_forward(f)
    tied = f.switch("tie_word_embeddings", True)
    scaled = f.switch("scale_decoder_outputs", tied)
    return Seq2SeqConfig(
        vocab=f.integer("vocab_size"),
        encoder_layers=layers,
        decoder_layers=layers
        if f.value("num_decoder_layers", None) is None
        else f.integer("num_decoder_layers"),
        embed=f.integer("d_model"),
        heads=f.integer("num_heads"),
        head_dim=f.integer("d_kv"),
        mlp=f.integer("d_ff"),
        position_encoding="relative",
        relative_buckets=f.integer("relative_attention_num_buckets", 32),
        relative_distance=f.integer("relative_attention_max_distance", 128),
        embedding_scale="none",
        head="tied" if tied else "untied",
        head_scale="rsqrt_embed" if scaled else "none",
        norm="pre",
        norm_kind="rms",
        attention_scale="none",
        gating=gating,
        activation=activation,
        start=f.index("decoder_start_token_id", 0),
        epsilon=f.number("layer_norm_epsilon", 1e-6),
        embed_std=1.0,
        init_factor=f.number("initializer_factor", 1.0),
        embedding_dropout=dropout,
        attention_dropout=dropout,
        mlp_dropout=dropout,
        residual_dropout=dropout,
        final_dropout=dropout,
    )


def _feed_forward(f: Fields) -> tuple[Any, Any]:
    """(gating, activation) of "relu", "gated-gelu" (which means gelu_new), "gated-silu" ..."""
    spelled = str(f.value("feed_forward_proj", "relu"))
    gated, name = spelled.startswith("gated-"), spelled.removeprefix("gated-")
    name = "gelu_new" if spelled == "gated-gelu" else name
    if name not in _ACTIVATIONS:
        f.problem(f"feed_forward_proj: {spelled!r} is not supported (of {', '.join(_ACTIVATIONS)})")
        name = "relu"
    # What transformers derives from it and writes beside it.
    f.only("dense_act_fn", name)
    f.only("is_gated_act", gated)
    return "gated" if gated else "plain", _ACTIVATIONS[name]


# Fields of the model's computation, start and training, which no output depends on.
_NEUTRAL = frozenset(
    (
        *("remat", "unroll", "init", "embed_std", "init_factor"),
        *(
            "embedding_dropout",
            "attention_dropout",
            "mlp_dropout",
            "residual_dropout",
            "final_dropout",
        ),
    )
)
# What makes a Seq2SeqConfig T5's; its biases are none and its embeddings shared by default.
ONLY = {
    "position_encoding": ["relative"],
    "embedding_scale": ["none"],
    "norm": ["pre"],
    "norm_kind": ["rms"],
    "attention_scale": ["none"],
}
FIELDS = (
    *("vocab", "encoder_layers", "decoder_layers", "embed", "heads", "head_dim", "mlp"),
    *("relative_buckets", "relative_distance", "head", "gating", "activation", "start", "epsilon"),
)


def neutral(config: Seq2SeqConfig) -> frozenset[str]:
    """The fields that change no output of this config."""
    return _NEUTRAL


def _head_scale(config: Seq2SeqConfig) -> str:
    # transformers 4 has one flag for both.
    wanted = "rsqrt_embed" if config.head == "tied" else "none"
    return "" if config.head_scale == wanted else f"only {wanted!r} with model.head {config.head}"


def _activation(config: Seq2SeqConfig) -> str:
    if config.activation not in _ACTIVATIONS.values():
        return f"only {' or '.join(_ACTIVATIONS.values())}"
    exact = config.gating == "gated" and config.activation == "gelu"
    return "with model.gating gated its gelu is gelu_tanh, not the exact one" if exact else ""


EXPRESSES = Expressible(
    format="t5",
    family="seq2seq",
    fields=FIELDS,
    only=ONLY,
    rules={"head_scale": _head_scale, "activation": _activation},
    neutral=neutral,
)


def write(config: Seq2SeqConfig) -> Record:
    """Our config to theirs."""
    tied = config.head == "tied"
    spelled = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[config.activation]
    gated = config.gating == "gated"
    proj = spelled if not gated else "gated-" + spelled.removesuffix("_new")
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": config.vocab,
        "d_model": config.embed,
        "d_kv": config.head_dim,
        "d_ff": config.mlp,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_distance,
        "dropout_rate": config.residual_dropout,
        "layer_norm_epsilon": config.epsilon,
        "initializer_factor": config.init_factor,
        "feed_forward_proj": proj,
        "is_encoder_decoder": True,
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "decoder_start_token_id": config.start,
        "use_cache": True,
    }


def table(config: Seq2SeqConfig) -> list[Row]:
    """The rows of one model."""
    rows = [Row("embed", _SHARED, "VD")]
    if config.head == "untied":
        rows.append(Row("head_table", "lm_head.weight", "VD"))
    for side in ("encoder", "decoder"):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(Row(f"{side}/relative_bias/table", first, "RN"))
        rows.append(Row(f"{side}/norm/scale", f"{side}.final_layer_norm.weight", "D"))
        rows += _side(side, gated=config.gating == "gated")
    return rows


def _side(side: str, *, gated: bool) -> list[Row]:
    ours, theirs = f"{side}/layers", f"{side}.block.{{Z}}.layer"
    attentions = [("attention", "SelfAttention")]
    if side == "decoder":
        attentions.append(("source_attention", "EncDecAttention"))
    rows = []
    for number, (our, their) in enumerate(attentions):
        norm = {"attention": "attention_norm", "source_attention": "source_norm"}[our]
        rows += [
            *(
                Row(f"{ours}/{our}/{x}", f"{theirs}.{number}.{their}.{x}.weight", "(NH)D")
                for x in "qkv"
            ),
            Row(f"{ours}/{our}/out", f"{theirs}.{number}.{their}.o.weight", "D(NH)"),
            Row(f"{ours}/{norm}/scale", f"{theirs}.{number}.layer_norm.weight", "D"),
        ]
    last = len(attentions)
    up = [("gate", "wi_0"), ("up", "wi_1")] if gated else [("up", "wi")]
    for our, their in up:
        rows.append(
            Row(f"{ours}/mlp/{our}", f"{theirs}.{last}.DenseReluDense.{their}.weight", "FD")
        )
    return [
        *rows,
        Row(f"{ours}/mlp/down", f"{theirs}.{last}.DenseReluDense.wo.weight", "DF"),
        Row(f"{ours}/mlp_norm/scale", f"{theirs}.{last}.layer_norm.weight", "D"),
    ]


# The first published files hold one that no forward pass reads.
_UNREAD = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


def _canonical(name: str) -> str | None:
    return None if _UNREAD.fullmatch(name) else name


def _ties(config: Seq2SeqConfig) -> list[Tie]:
    ties = [Tie(f"{side}.embed_tokens.weight", _SHARED) for side in ("encoder", "decoder")]
    if config.head == "tied":
        ties.append(Tie("lm_head.weight", _SHARED, {"head": "untied"}))
    return ties


FORMATS = {
    "t5": Format(
        model_type="t5",
        family="seq2seq",
        expresses=EXPRESSES,
        read=read,
        write=write,
        table=table,
        canonical=_canonical,
        ties=_ties,
    )
}
