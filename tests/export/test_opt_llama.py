"""The published config.json files of OPT, Llama and Mistral: what they are read as, and what is
refused by name."""

import json

import pytest

from gesso import configs
from gesso.export import FolderError
from gesso.export.formats import format_for, format_of
from gesso.export.tables.fields import Fields
from gesso.models.count import parameters

OPT = {
    "_name_or_path": "facebook/opt-125m",
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "transformers_version": "4.21.0.dev0",
    "use_cache": True,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
OPT_350M = OPT | {
    "do_layer_norm_before": False,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.35.0",
    "use_cache": True,
    "vocab_size": 32000,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
# What a config.json of a released model does not say of its training, or says otherwise.
RECIPE = (
    *("init_std", "residual_init", "attention_dropout", "residual_dropout"),
    *("remat", "unroll"),
)


def read(record):
    fields = Fields(json.loads(json.dumps(record)))
    config = format_of(record).read(fields)
    fields.close()
    assert not config.problems()
    return config


@pytest.mark.parametrize(
    ("name", "record"), [("opt-125m", OPT), ("opt-350m", OPT_350M), ("llama-1.1b", LLAMA)]
)
def test_an_experiment_has_the_published_shape(name, record):
    published, ours = read(record), configs.experiment(name).model
    differ = {n for n in vars(ours) if getattr(ours, n) != getattr(published, n)}
    assert differ <= set(RECIPE)
    form = format_for(published)
    assert form.model_type == record["model_type"] and read(form.write(published)) == published


def test_mistral_is_llama_with_a_window():
    config = read(MISTRAL)
    assert (config.pattern, config.window, config.key_heads) == (("local",), 4096, 8)
    assert parameters(config)["total"] == 7_241_732_096
    assert format_for(config).model_type == "mistral"
    assert read(MISTRAL | {"sliding_window": None}).pattern == ("global",)


def test_rotary_positions_in_both_spellings():
    new = {name: each for name, each in LLAMA.items() if name not in ("rope_theta", "rope_scaling")}
    said = {"rope_type": "default", "rope_theta": 500.0}
    assert read(new | {"rope_parameters": said}).rotary_base == 500.0
    assert read(LLAMA | {"rope_theta": 500.0}).rotary_base == 500.0


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (LLAMA, "rope_scaling", {"type": "linear", "factor": 2.0}),
        (LLAMA, "rope_parameters", {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0}),
        (LLAMA, "rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
        (LLAMA, "head_dim", 128),
        (LLAMA, "sliding_window", 4096),
        (MISTRAL, "sliding_window", 0),
        (OPT, "layer_norm_elementwise_affine", False),
        (OPT, "activation_dropout", 0.1),
        (OPT, "layerdrop", 0.1),
    ],
)
def test_what_no_model_here_has_is_refused_by_name(record, field, value):
    with pytest.raises(FolderError, match=field):
        read(record | {field: value})
