"""config.json of GPT-1, GPT-2 and GPT-J to GPTConfig and back, as OpenAI spelled it."""

from typing import Any

from gesso.export.families.gpt_base import (
    ACTIVATIONS,
    ALL_BIASES,
    SPELLED,
    Keys,
    biases_only,
    decodes,
    expressible,
    inner_size,
    inner_width,
    read_shared,
)
from gesso.export.files.tensors import Record
from gesso.export.tables.fields import Fields
from gesso.models.gpt.config import GPTConfig

_KEYS = Keys(
    positions="n_positions",
    embed="n_embd",
    layers="n_layer",
    heads="n_head",
    embedding_dropout="embd_pdrop",
    attention_dropout="attn_pdrop",
    residual_dropout="resid_pdrop",
)
# (divides by sqrt(head dim), divides by the layer's number) -> attention_scale
_SCALES = {
    (True, False): "head_dim",
    (True, True): "head_dim_and_layer",
    (False, True): "layer",
    (False, False): "none",
}
GPT1 = expressible(
    "openai-gpt",
    only={"norm": ["post"], "activation": ["gelu_tanh", "relu"]},
    rules={
        "biases": biases_only(ALL_BIASES),
        "mlp": lambda c: "" if inner_size(c) is None else f"only 4 x model.embed, {4 * c.embed}",
    },
)
GPT2 = expressible(
    "gpt2", fields=("attention_scale",), only={}, rules={"biases": biases_only(ALL_BIASES)}
)
GPT_J = expressible(
    "gptj",
    fields=("rotary_dims",),
    only={"position_encoding": ["rotary"], "block": ["parallel_shared_norm"]},
    rules={"biases": biases_only(("mlp", "head"))},
)


def _read(f: Fields, *, dropout: float, tied: bool, cross: bool = False) -> Record:
    """The fields that GPT-1, GPT-2 and GPT-J share."""
    decodes(f, cross=cross)
    f.harmless("n_ctx")
    shared = read_shared(f, _KEYS, dropout=dropout, tied=tied)
    return shared | {"mlp": inner_width(f, "n_inner", shared["embed"])}


def _write(config: GPTConfig, model_type: str, architecture: str) -> Record:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": config.vocab,
        "n_positions": config.positions,
        "n_ctx": config.positions,  # llama.cpp's converter asks for it
        "n_embd": config.embed,
        "n_layer": config.layers,
        "n_head": config.heads,
        "layer_norm_epsilon": config.epsilon,
        "initializer_range": config.init_std,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "tie_word_embeddings": config.head == "tied",
        "use_cache": True,
    }


# What OpenAI's models have for a head of their own, which ours is not.
_SUMMARY = {
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
    "summary_first_dropout": 0.1,
}


def read_gpt2(f: Fields, *, cross: bool = False) -> GPTConfig:
    shared = _read(f, dropout=0.1, tied=True, cross=cross)
    f.harmless("reorder_and_upcast_attn")  # both ways our softmax is float32's
    by = (f.switch("scale_attn_weights", True), f.switch("scale_attn_by_inverse_layer_idx", False))
    activation = f.choice("activation_function", ACTIVATIONS, "gelu_new")
    scale: Any = _SCALES[by]
    return GPTConfig(**shared, attention_scale=scale, activation=activation, residual_init="depth")


def write_gpt2(config: GPTConfig) -> Record:
    by_head, by_layer = next(key for key, name in _SCALES.items() if name == config.attention_scale)
    # transformers 4's fused attention scales by the head dim whatever the config says, silently.
    plain = config.attention_scale == "head_dim"
    kernel = {} if plain else {"_attn_implementation": "eager"}
    return _write(config, "gpt2", "GPT2LMHeadModel") | {
        "n_inner": inner_size(config),
        "activation_function": SPELLED[config.activation],
        "scale_attn_weights": by_head,
        "scale_attn_by_inverse_layer_idx": by_layer,
        **kernel,
        "reorder_and_upcast_attn": False,
        **_SUMMARY,
    }


def read_gpt1(f: Fields) -> GPTConfig:
    f.only("n_inner", None)
    shared = _read(f, dropout=0.1, tied=True)
    f.harmless("predict_special_tokens")
    f.only("n_special", 0)
    # Its "gelu" is the tanh approximation.
    activation = f.choice("afn", {"gelu": "gelu_tanh", "relu": "relu"}, "gelu")
    return GPTConfig(**shared, norm="post", padding="later", activation=activation)


def write_gpt1(config: GPTConfig) -> Record:
    return _write(config, "openai-gpt", "OpenAIGPTLMHeadModel") | {
        "afn": "relu" if config.activation == "relu" else "gelu",
        **_SUMMARY,
    }


def read_gpt_j(f: Fields) -> GPTConfig:
    shared = _read(f, dropout=0.0, tied=False)
    f.only("rotary", True)
    f.only("scale_attn_weights", True)
    return GPTConfig(
        **shared,
        position_encoding="rotary",
        rotary_dims=f.integer("rotary_dim", 64),
        block="parallel_shared_norm",
        biases=("mlp", "head"),
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )


def write_gpt_j(config: GPTConfig) -> Record:
    return _write(config, "gptj", "GPTJForCausalLM") | {
        "n_inner": inner_size(config),
        "rotary_dim": config.rotary_dims,
        "activation_function": SPELLED[config.activation],
        "scale_attn_weights": True,
    }
