"""Where CTranslate2 keeps a model's weights, and the switches that say how it computes.

A model is a list of variables; small ones are settings. The names, and which settings there are,
are those of CTranslate2's specifications (https://github.com/OpenNMT/CTranslate2, its
python/ctranslate2/specs), which the tests compare.
"""

import numpy as np

from gesso.export.tables.tables import Row
from gesso.models.bert.config import BERTConfig
from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.settings import Activation
from gesso.models.seq2seq.config import Seq2SeqConfig

ACTIVATIONS: dict[Activation, int] = {"relu": 0, "gelu_tanh": 1, "silu": 2, "gelu": 3}
Settings = dict[str, np.generic]
# The configs that CTranslate2 computes.
Computed = GPTConfig | BERTConfig | Seq2SeqConfig


def decoder(config: GPTConfig) -> tuple[list[Row], Settings]:
    """The rows and settings of a GPT whose attention is global and scaled by the head dim."""
    shared, parallel = config.block == "parallel_shared_norm", config.block != "sequential"
    layer, attention = "decoder/layer_{Z}", "decoder/layer_{Z}/self_attention"
    norms = {"blocks/attention_norm": f"{attention}/layer_norm"}
    norms["blocks/mlp_norm"] = f"{layer}/ffn/layer_norm"
    if parallel:
        norms["blocks/attention_norm"] = f"{layer}/input_layer_norm"
        norms["blocks/mlp_norm"] = f"{layer}/post_attention_layer_norm"
    if shared:
        norms = {"blocks/attention_norm": f"{layer}/shared_layer_norm"}
    if config.norm == "pre":
        norms["norm"] = "decoder/layer_norm"
    rows = [Row("embed", "decoder/embeddings/weight", "VD")]
    rows += _attention("blocks/attention", attention, config.biases)
    rows += _mlp("blocks/mlp", f"{layer}/ffn", biases="mlp" in config.biases)
    rows += [row for ours, theirs in norms.items() for row in _norm(ours, theirs)]
    if config.position_encoding == "learned":
        rows.append(Row("positions", "decoder/position_encodings/encodings", "SD"))
    if config.head == "untied":
        rows.append(Row("head_table", "decoder/projection/weight", "VD"))
    if "head" in config.biases:
        rows.append(Row("head_bias", "decoder/projection/bias", "V"))
    settings = _decoder_settings(config.heads, config.activation, pre=config.norm == "pre")
    if config.position_encoding == "rotary":
        for number in range(config.layers):
            settings |= {
                f"decoder/layer_{number}/self_attention/rotary_dim": np.int32(config.rotary_dims),
                f"decoder/layer_{number}/self_attention/rotary_interleave": np.int8(0),
                f"decoder/layer_{number}/self_attention/rotary_base": np.float32(
                    config.rotary_base
                ),
            }
    return rows, settings


def encoder(config: BERTConfig) -> tuple[list[Row], Settings]:
    """The rows and settings of BERT's features and pooler."""
    layer = "encoder/layer_{Z}"
    embeddings = "encoder/embeddings"
    rows = [
        Row("embed", f"{embeddings}_0/weight", "VD"),
        Row("positions", "encoder/position_encodings/encodings", "SD"),
        *_norm("embed_norm", "encoder/layernorm_embedding"),
        *_attention("blocks/attention", f"{layer}/self_attention", ("qkv", "attention_out")),
        *_norm("blocks/attention_norm", f"{layer}/self_attention/layer_norm"),
        *_mlp("blocks/mlp", f"{layer}/ffn", biases=True),
        *_norm("blocks/mlp_norm", f"{layer}/ffn/layer_norm"),
    ]
    if config.token_types:
        rows.append(Row("token_types", f"{embeddings}_1/weight", "TD"))
    settings: Settings = {
        "encoder/num_heads": np.int16(config.heads),
        "encoder/pre_norm": np.int8(0),
        "encoder/activation": np.int8(ACTIVATIONS[config.activation]),
        "encoder/embeddings_merge": np.int8(1),  # they are added
        "encoder/multi_query_attention": np.int8(0),
        "encoder/scale_embeddings": np.int8(0),
    }
    if config.pools:
        rows += [
            Row("pooler/weight", "pooler_dense/weight", "FD"),
            Row("pooler/bias", "pooler_dense/bias", "F"),
        ]
        settings["pooler_activation"] = np.int8(5)  # tanh
    return rows, settings


def encoder_decoder(config: Seq2SeqConfig) -> tuple[list[Row], Settings]:
    """The rows and settings of a T5."""
    rows = [Row("embed", "encoder/embeddings_0/weight", "VD")]
    if config.head == "untied":
        rows.append(Row("head_table", "decoder/projection/weight", "VD"))
    settings = _decoder_settings(config.heads, config.activation, pre=True) | {
        "encoder/num_heads": np.int16(config.heads),
        "encoder/pre_norm": np.int8(1),
        "encoder/activation": np.int8(ACTIVATIONS[config.activation]),
        "encoder/embeddings_merge": np.int8(0),
        "encoder/multi_query_attention": np.int8(0),
        "encoder/scale_embeddings": np.int8(0),
    }
    if config.head_scale == "rsqrt_embed":
        settings["decoder/scale_outputs"] = np.float32(config.embed**-0.5)
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        layer = f"{side}/layer_{{Z}}"
        first = f"{side}/layer_0/self_attention/relative_attention_bias"
        rows += [
            Row(f"{side}/relative_bias/table", first, "RN"),
            Row(f"{side}/norm/scale", f"{side}/layer_norm/gamma", "D"),
            *_attention(f"{side}/layers/attention", f"{layer}/self_attention", ()),
            Row(
                f"{side}/layers/attention_norm/scale",
                f"{layer}/self_attention/layer_norm/gamma",
                "D",
            ),
            *_mlp(f"{side}/layers/mlp", f"{layer}/ffn", biases=False, gating=config.gating),
            Row(f"{side}/layers/mlp_norm/scale", f"{layer}/ffn/layer_norm/gamma", "D"),
        ]
        if side == "decoder":
            ours, theirs = "decoder/layers/source_attention", f"{layer}/attention"
            rows += [
                Row(f"{ours}/q", f"{theirs}/linear_0/weight", "(NH)D"),
                Row(f"{ours}/{{k,v}}", f"{theirs}/linear_1/weight", "(*NH)D"),
                Row(f"{ours}/out", f"{theirs}/linear_2/weight", "D(NH)"),
                Row("decoder/layers/source_norm/scale", f"{theirs}/layer_norm/gamma", "D"),
            ]
        for number in range(layers):
            scope = f"{side}/layer_{number}"
            for each in ("self_attention", *(["attention"] if side == "decoder" else [])):
                settings[f"{scope}/{each}/queries_scale"] = np.float32(1)
                if config.heads * config.head_dim != config.embed:
                    settings[f"{scope}/{each}/head_dim"] = np.int32(config.head_dim)
            furthest = np.int32(config.relative_distance)
            settings[f"{scope}/self_attention/relative_attention_max_distance"] = furthest
    return rows, settings


def _decoder_settings(heads: int, activation: Activation, *, pre: bool) -> Settings:
    return {
        "decoder/num_heads": np.int16(heads),
        "decoder/pre_norm": np.int8(pre),
        "decoder/activation": np.int8(ACTIVATIONS[activation]),
        "decoder/alignment_layer": np.int16(-1),
        "decoder/alignment_heads": np.int16(1),
        "decoder/scale_embeddings": np.int8(0),
        "decoder/alibi": np.int8(0),
        "decoder/alibi_use_positive_positions": np.int8(0),
        "decoder/scale_alibi": np.int8(0),
        "decoder/start_from_zero_embedding": np.int8(0),
    }


def _norm(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{ours}/scale", f"{theirs}/gamma", "D"),
        Row(f"{ours}/bias", f"{theirs}/beta", "D"),
    ]


def _attention(ours: str, theirs: str, biases: tuple[str, ...]) -> list[Row]:
    rows = [
        Row(f"{ours}/{{q,k,v}}", f"{theirs}/linear_0/weight", "(*NH)D"),
        Row(f"{ours}/out", f"{theirs}/linear_1/weight", "D(NH)"),
    ]
    if "qkv" in biases:
        rows.append(Row(f"{ours}/{{q,k,v}}_bias", f"{theirs}/linear_0/bias", "(*NH)"))
    if "attention_out" in biases:
        rows.append(Row(f"{ours}/out_bias", f"{theirs}/linear_1/bias", "D"))
    return rows


def _mlp(ours: str, theirs: str, *, biases: bool, gating: str = "plain") -> list[Row]:
    up = {"up": "linear_0"} if gating == "plain" else {"gate": "linear_0", "up": "linear_0_noact"}
    rows = [Row(f"{ours}/{a}", f"{theirs}/{b}/weight", "FD") for a, b in up.items()]
    rows.append(Row(f"{ours}/down", f"{theirs}/linear_1/weight", "DF"))
    if biases:
        rows.append(Row(f"{ours}/up_bias", f"{theirs}/linear_0/bias", "F"))
        rows.append(Row(f"{ours}/down_bias", f"{theirs}/linear_1/bias", "D"))
    return rows
