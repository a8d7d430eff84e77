"""config.json of GPT-1, GPT-2 and GPT-J to GPTConfig and back, and what all GPT configs share.

Written with the keys of transformers 4, which transformers 5, CTranslate2 and llama.cpp read too
(the reverse is not so: transformers 4 reads NeoX's rope_parameters as rotary_pct 0.25 without a
word). Dropout rates are carried over; NeoX and GPT-1 have fewer of them than we do.
"""

from typing import Any

from gesso.export.tables.fields import Fields, Sayable
from gesso.models.gpt.config import GPTConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}
SPELLED = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
# (divides by sqrt(head dim), divides by the layer's number) -> attention_scale
SCALES = {
    (True, False): "head_dim",
    (True, True): "head_dim_and_layer",
    (False, True): "layer",
    (False, False): "none",
}
ALL_BIASES = ("qkv", "attention_out", "mlp")
Written = tuple[dict[str, Any], list[str]]


def head_of(tied: bool) -> Any:
    """GPTConfig.head."""
    return "tied" if tied else "untied"


def plain(f: Fields, *, cross: bool = False) -> None:
    """What no GPT here has. cross: whether it is the decoder of an encoder-decoder."""
    f.only("is_decoder", *([True] if cross else [False, True]))  # alone it decodes anyway
    f.only("is_encoder_decoder", False)
    f.only("add_cross_attention", cross)
    f.only("tie_encoder_decoder", False)
    f.only("pruned_heads", {}, None)


def _openai(f: Fields, *, dropout: float, tied: bool, cross: bool = False) -> dict[str, Any]:
    """The fields that GPT-1, GPT-2 and GPT-J share."""
    plain(f, cross=cross)
    f.harmless("n_ctx")
    embed = f.integer("n_embd")
    return {
        "vocab": f.integer("vocab_size"),
        "positions": f.integer("n_positions"),
        "layers": f.integer("n_layer"),
        "embed": embed,
        "heads": f.integer("n_head"),
        "mlp": f.integer("n_inner") if f.record.get("n_inner") else 4 * embed,
        "epsilon": f.number("layer_norm_epsilon", 1e-5),
        "init_std": f.number("initializer_range", 0.02),
        "embedding_dropout": f.number("embd_pdrop", dropout),
        "attention_dropout": f.number("attn_pdrop", dropout),
        "residual_dropout": f.number("resid_pdrop", dropout),
        "head": head_of(f.switch("tie_word_embeddings", tied)),
    }


def _written_openai(config: GPTConfig, model_type: str, architecture: str) -> dict[str, Any]:
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


def inner_size(config: GPTConfig) -> int | None:
    """The mlp's width, or None where it is the usual four times the model's."""
    return None if config.mlp == 4 * config.embed else config.mlp


def learned_only(s: Sayable) -> None:
    """A format with learned positions and one sublayer after the other."""
    s.only(position_encoding="learned", block="sequential")


def global_only(s: Sayable) -> None:
    """A format without local attention."""
    if "local" in s.config.kinds:
        s.problems.append(f"only gpt_neo has local attention, not {s.config.pattern}")


def biases_only(s: Sayable, *allowed: tuple[str, ...]) -> None:
    """A format with one of these sets of biases."""
    if set(s.config.biases) not in [set(each) for each in allowed]:
        said = " or ".join(map(str, allowed))
        s.problems.append(f"model.biases {s.config.biases} can only be {said}")


def read_gpt2(f: Fields, *, cross: bool = False) -> GPTConfig:
    shared = _openai(f, dropout=0.1, tied=True, cross=cross)
    f.harmless("n_inner", "reorder_and_upcast_attn")  # both ways our softmax is float32's
    by = (f.switch("scale_attn_weights", True), f.switch("scale_attn_by_inverse_layer_idx", False))
    activation = f.choice("activation_function", ACTIVATIONS, "gelu_new")
    scale: Any = SCALES[by]
    return GPTConfig(**shared, attention_scale=scale, activation=activation, residual_init="depth")


def write_gpt2(config: GPTConfig) -> Written:
    s = Sayable("gpt2", config)
    learned_only(s)
    global_only(s)
    s.only(norm="pre")
    biases_only(s, ALL_BIASES)
    by_head, by_layer = next(key for key, name in SCALES.items() if name == config.attention_scale)
    # transformers 4's fused attention scales by the head dim whatever the config says, silently.
    plain = config.attention_scale == "head_dim"
    kernel = {} if plain else {"_attn_implementation": "eager"}
    return _written_openai(config, "gpt2", "GPT2LMHeadModel") | {
        "n_inner": inner_size(config),
        "activation_function": SPELLED[config.activation],
        "scale_attn_weights": by_head,
        "scale_attn_by_inverse_layer_idx": by_layer,
        **kernel,
        "reorder_and_upcast_attn": False,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
    }, s.problems


def read_gpt1(f: Fields) -> GPTConfig:
    shared = _openai(f, dropout=0.1, tied=True)
    f.harmless("predict_special_tokens")
    f.only("n_special", 0)
    f.only("n_inner", None)
    # Its "gelu" is the tanh approximation.
    activation = f.choice("afn", {"gelu": "gelu_tanh", "relu": "relu"}, "gelu")
    return GPTConfig(**shared, norm="post", padding="later", activation=activation)


def write_gpt1(config: GPTConfig) -> Written:
    s = Sayable("openai-gpt", config)
    learned_only(s)
    global_only(s)
    s.only(
        norm="post",
        attention_scale="head_dim",
        activation=["gelu_tanh", "relu"],
        mlp=4 * config.embed,
    )
    biases_only(s, ALL_BIASES)
    return _written_openai(config, "openai-gpt", "OpenAIGPTLMHeadModel") | {
        "afn": "relu" if config.activation == "relu" else "gelu",
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
    }, s.problems


def read_gpt_j(f: Fields) -> GPTConfig:
    shared = _openai(f, dropout=0.0, tied=False)
    f.harmless("n_inner")
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


def write_gpt_j(config: GPTConfig) -> Written:
    s = Sayable("gptj", config)
    global_only(s)
    s.only(
        position_encoding="rotary",
        rotation="interleaved",
        rotary_base=10000.0,
        block="parallel_shared_norm",
        norm="pre",
        attention_scale="head_dim",
    )
    biases_only(s, ("mlp", "head"))
    return _written_openai(config, "gptj", "GPTJForCausalLM") | {
        "n_inner": inner_size(config),
        "rotary_dim": config.rotary_dims,
        "activation_function": SPELLED[config.activation],
        "scale_attn_weights": True,
    }, s.problems
