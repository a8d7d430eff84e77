"""Llama (https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2307.09288) and Mistral
(https://arxiv.org/abs/2310.06825) as published: config.json, names and layouts."""

import re

from gesso.export.families import gpt_labels
from gesso.export.families.gpt_base import (
    ACTIVATIONS,
    SPELLED,
    Keys,
    biases_only,
    decodes,
    expressible,
    global_only,
    read_shared,
)
from gesso.export.families.linear import linear, norm
from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.gpt.config import GPTConfig

_KEYS = Keys(epsilon="rms_norm_eps")
_ONLY = {
    "position_encoding": ["rotary"],
    "rotation": ["half"],
    "norm_kind": ["rms"],
    "gating": ["gated"],
}
_ATTENTION = ("qkv", "attention_out")


def _whole_heads(config: GPTConfig) -> str:
    return (
        ""
        if config.rotary_dims == config.head_dim
        else f"only model.embed / model.heads, {config.head_dim}"
    )


def _one_kind(config: GPTConfig) -> str:
    return "" if len(set(config.kinds)) == 1 else "mistral has one kind of attention in all layers"


LLAMA = expressible(
    "llama",
    fields=("key_heads", "rotary_base"),
    only=_ONLY,
    rules={
        "rotary_dims": _whole_heads,
        "pattern": global_only,
        "biases": biases_only((), _ATTENTION, ("mlp",), (*_ATTENTION, "mlp")),
    },
)
MISTRAL = expressible(
    "mistral",
    fields=("key_heads", "rotary_base", "window"),
    only=_ONLY,
    rules={"rotary_dims": _whole_heads, "pattern": _one_kind, "biases": biases_only(())},
)


def read(f: Fields) -> GPTConfig:
    """GPTConfig of a config.json."""
    decodes(f)
    f.harmless("pretraining_tp", "max_window_layers")  # how products are cut; read by nobody
    shared = read_shared(f, _KEYS, dropout=0.0, tied=False)
    heads = shared["heads"]
    dims = shared["embed"] // max(heads, 1)
    f.only("head_dim", dims, None)
    keys = f.value("num_key_value_heads", None)
    has_attention, has_mlp = f.switch("attention_bias", False), f.switch("mlp_bias", False)
    window = f.value("sliding_window", None)
    if not (window is None or type(window) is int and window > 0):
        f.problem(f"sliding_window: {window!r} must be a number of tokens or null")
        window = None
    if f.record.get("model_type") == "llama" and window is not None:
        f.problem(f"sliding_window: {window} is not a field of llama")
    return GPTConfig(
        **shared,
        key_heads=0 if keys in (None, heads) else f.integer("num_key_value_heads"),
        mlp=f.integer("intermediate_size"),
        position_encoding="rotary",
        rotary_dims=dims,
        rotary_base=_base(f),
        rotation="half",
        norm_kind="rms",
        gating="gated",
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
        pattern=("global",) if window is None else ("local",),
        window=window or 0,
        biases=(*(_ATTENTION if has_attention else ()), *(("mlp",) if has_mlp else ())),
    )


def _base(f: Fields) -> float:
    """rope_theta, in the spelling of transformers 4 or 5. Scaled positions are refused by name."""
    f.only("rope_scaling", None)
    f.only("rope_interleaved", False)
    base = f.number("rope_theta", 10000.0)
    if (new := f.value("rope_parameters", None)) is None:
        return base
    inner = Fields(new, source=f"{f.source}: rope_parameters")
    inner.only("rope_type", "default")
    found = inner.number("rope_theta", base)
    inner.close()
    if found != base and "rope_theta" in f.record:
        f.problem(f"rope_theta: {base} contradicts rope_parameters, which say {found}")
    return found


def write(config: GPTConfig, expresses: Expressible) -> Record:
    """The config.json of a config that Llama or Mistral expresses."""
    mistral = expresses is MISTRAL
    biases = {"attention_bias": "qkv" in config.biases, "mlp_bias": "mlp" in config.biases}
    return {
        "model_type": expresses.format,
        "architectures": ["MistralForCausalLM" if mistral else "LlamaForCausalLM"],
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "hidden_size": config.embed,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads or config.heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp,
        "hidden_act": SPELLED[config.activation],
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rotary_base,
        **({"sliding_window": config.window or None} if mistral else biases),
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.head == "tied",
        "use_cache": True,
    }


_X = "model.layers.{Z}"


def table(config: GPTConfig) -> list[Row]:
    """The rows of one model."""
    shared = f"({config.key_letter}H)D"
    attention, mlp = "qkv" in config.biases, "mlp" in config.biases
    rows = [
        Row("embed", "model.embed_tokens.weight", "VD"),
        *linear("blocks/attention/q", f"{_X}.self_attn.q_proj", "(NH)D", attention),
        *linear("blocks/attention/k", f"{_X}.self_attn.k_proj", shared, attention),
        *linear("blocks/attention/v", f"{_X}.self_attn.v_proj", shared, attention),
        *linear("blocks/attention/out", f"{_X}.self_attn.o_proj", "D(NH)", attention),
        *linear("blocks/mlp/gate", f"{_X}.mlp.gate_proj", "FD", mlp),
        *linear("blocks/mlp/up", f"{_X}.mlp.up_proj", "FD", mlp),
        *linear("blocks/mlp/down", f"{_X}.mlp.down_proj", "DF", mlp),
        *norm("blocks/attention_norm", f"{_X}.input_layernorm", has_bias=False),
        *norm("blocks/mlp_norm", f"{_X}.post_attention_layernorm", has_bias=False),
        *norm("norm", "model.norm", has_bias=False),
    ]
    if config.head == "untied":
        rows.append(Row("head_table", "lm_head.weight", "VD"))
    return [*rows, gpt_labels.ROW] if config.outputs else rows


def _canonical(name: str) -> str | None:
    """As LlamaForCausalLM calls it; None for the rotary frequencies that older versions saved."""
    if re.search(r"rotary_emb\.inv_freq$", name):
        return None
    return name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"


def _format(expresses: Expressible) -> Format:
    tie = Tie("lm_head.weight", "model.embed_tokens.weight", {"head": "untied"})
    return Format(
        model_type=expresses.format,
        family="gpt",
        expresses=expresses,
        read=gpt_labels.label_reader(read),
        write=gpt_labels.label_writer(lambda config: write(config, expresses)),
        table=table,
        canonical=_canonical,
        ties=lambda config: [tie] if config.head == "tied" else [],
    )


FORMATS = {each.format: _format(each) for each in (LLAMA, MISTRAL)}
