"""GPT-1, GPT-2, GPT-Neo, GPT-J and GPT-NeoX as published: names, layouts, buffers, tied heads."""

import re

from gesso.export.families import gpt_configs, gpt_labels, gpt_neo_configs
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.gpt.config import GPTConfig


def table(model_type: str, config: GPTConfig) -> list[Row]:
    """The rows of one model; those of heads it does not have are left out."""
    rows = TABLES[model_type]
    if config.head == "tied":
        rows = [row for row in rows if row.ours != "head_table"]
    if "qkv" not in config.biases:
        rows = [row for row in rows if "{q,k,v}_bias" not in row.ours]
    if "attention_out" not in config.biases:
        rows = [row for row in rows if row.ours != "blocks/attention/out_bias"]
    return [*rows, gpt_labels.ROW] if config.outputs else rows


def norms(ours: str, theirs: str) -> list[Row]:
    """A LayerNorm of every block."""
    return [
        Row(f"blocks/{ours}/scale", f"{theirs}.weight", "D"),
        Row(f"blocks/{ours}/bias", f"{theirs}.bias", "D"),
    ]


def _mlp(up: str, down: str, *, layouts: tuple[str, str]) -> list[Row]:
    return [
        Row("blocks/mlp/up", f"{up}.weight", layouts[0]),
        Row("blocks/mlp/up_bias", f"{up}.bias", "F"),
        Row("blocks/mlp/down", f"{down}.weight", layouts[1]),
        Row("blocks/mlp/down_bias", f"{down}.bias", "D"),
    ]


def _split(theirs: str, out: str) -> list[Row]:
    return [
        *(Row(f"blocks/attention/{x}", f"{theirs}.{x}_proj.weight", "(NH)D") for x in "qkv"),
        Row("blocks/attention/out", f"{theirs}.{out}.weight", "D(NH)"),
    ]


_FUSED = "blocks/attention/{q,k,v}"
_H = "transformer.h.{Z}"
_LINEAR = ("FD", "DF")
# OpenAI's Conv1D keeps its weights as input x output.
_CONV1D = [
    Row(_FUSED, f"{_H}.attn.c_attn.weight", "D(*NH)"),
    Row(f"{_FUSED}_bias", f"{_H}.attn.c_attn.bias", "(*NH)"),
    Row("blocks/attention/out", f"{_H}.attn.c_proj.weight", "(NH)D"),
    Row("blocks/attention/out_bias", f"{_H}.attn.c_proj.bias", "D"),
    *_mlp(f"{_H}.mlp.c_fc", f"{_H}.mlp.c_proj", layouts=("DF", "FD")),
    *norms("attention_norm", f"{_H}.ln_1"),
    *norms("mlp_norm", f"{_H}.ln_2"),
]
_FINAL = [
    Row("norm/scale", "transformer.ln_f.weight", "D"),
    Row("norm/bias", "transformer.ln_f.bias", "D"),
]
_EMBED = Row("embed", "transformer.wte.weight", "VD")
_POSITIONS = Row("positions", "transformer.wpe.weight", "SD")
_HEAD = Row("head_table", "lm_head.weight", "VD")
_X = "gpt_neox.layers.{Z}"

TABLES: dict[str, list[Row]] = {
    "openai-gpt": [
        Row("embed", "transformer.tokens_embed.weight", "VD"),
        Row("positions", "transformer.positions_embed.weight", "SD"),
        *_CONV1D,
        _HEAD,
    ],
    "gpt2": [_EMBED, _POSITIONS, *_CONV1D, *_FINAL, _HEAD],
    "gpt_neo": [
        _EMBED,
        _POSITIONS,
        *_split(f"{_H}.attn.attention", "out_proj"),
        Row("blocks/attention/out_bias", f"{_H}.attn.attention.out_proj.bias", "D"),
        *_mlp(f"{_H}.mlp.c_fc", f"{_H}.mlp.c_proj", layouts=_LINEAR),
        *norms("attention_norm", f"{_H}.ln_1"),
        *norms("mlp_norm", f"{_H}.ln_2"),
        *_FINAL,
        _HEAD,
    ],
    "gptj": [
        _EMBED,
        *_split(f"{_H}.attn", "out_proj"),
        *_mlp(f"{_H}.mlp.fc_in", f"{_H}.mlp.fc_out", layouts=_LINEAR),
        *norms("attention_norm", f"{_H}.ln_1"),
        *_FINAL,
        _HEAD,
        Row("head_bias", "lm_head.bias", "V"),
    ],
    "gpt_neox": [
        Row("embed", "gpt_neox.embed_in.weight", "VD"),
        Row(_FUSED, f"{_X}.attention.query_key_value.weight", "(N*H)D"),
        Row(f"{_FUSED}_bias", f"{_X}.attention.query_key_value.bias", "(N*H)"),
        Row("blocks/attention/out", f"{_X}.attention.dense.weight", "D(NH)"),
        Row("blocks/attention/out_bias", f"{_X}.attention.dense.bias", "D"),
        *_mlp(f"{_X}.mlp.dense_h_to_4h", f"{_X}.mlp.dense_4h_to_h", layouts=_LINEAR),
        *norms("attention_norm", f"{_X}.input_layernorm"),
        *norms("mlp_norm", f"{_X}.post_attention_layernorm"),
        Row("norm/scale", "gpt_neox.final_layer_norm.weight", "D"),
        Row("norm/bias", "gpt_neox.final_layer_norm.bias", "D"),
        Row("head_table", "embed_out.weight", "VD"),
    ],
}

# Masks and rotary frequencies that older versions saved among the weights.
_BUFFER = re.compile(
    r"h\.\d+\.attn\.(attention\.)?(masked_)?bias$|h\.\d+\.attn\.embed_positions$"
    r"|layers\.\d+\.attention\.(masked_)?bias$|rotary_emb\.inv_freq$"
)


def _canonical(name: str) -> str | None:
    """As AutoModelForCausalLM calls it; files of the model without a head lack the prefix."""
    if _BUFFER.search(name):
        return None
    whole = name.startswith(("transformer.", "lm_head.", "score."))
    return name if whole else f"transformer.{name}"


def _canonical_neox(name: str) -> str | None:
    if _BUFFER.search(name):
        return None
    if name == "lm_head.weight":  # what transformers 5 calls it in memory
        return "embed_out.weight"
    whole = name.startswith(("gpt_neox.", "embed_out.", "score."))
    return name if whole else f"gpt_neox.{name}"


_CONFIGS = {
    "openai-gpt": (gpt_configs.GPT1, gpt_configs.read_gpt1, gpt_configs.write_gpt1),
    "gpt2": (gpt_configs.GPT2, gpt_configs.read_gpt2, gpt_configs.write_gpt2),
    "gpt_neo": (
        gpt_neo_configs.GPT_NEO,
        gpt_neo_configs.read_gpt_neo,
        gpt_neo_configs.write_gpt_neo,
    ),
    "gptj": (gpt_configs.GPT_J, gpt_configs.read_gpt_j, gpt_configs.write_gpt_j),
    "gpt_neox": (
        gpt_neo_configs.GPT_NEOX,
        gpt_neo_configs.read_gpt_neox,
        gpt_neo_configs.write_gpt_neox,
    ),
}


def _format(model_type: str) -> Format:
    head = "embed_out.weight" if model_type == "gpt_neox" else "lm_head.weight"
    embed = TABLES[model_type][0].theirs
    expresses, read, write = _CONFIGS[model_type]
    return Format(
        model_type=model_type,
        family="gpt",
        expresses=expresses,
        read=gpt_labels.label_reader(read),
        write=gpt_labels.label_writer(write),
        table=lambda config: table(model_type, config),
        canonical=_canonical_neox if model_type == "gpt_neox" else _canonical,
        ties=lambda config: [Tie(head, embed, {"head": "untied"})] if config.head == "tied" else [],
    )


FORMATS = {model_type: _format(model_type) for model_type in TABLES}
