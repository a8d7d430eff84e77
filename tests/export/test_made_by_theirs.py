"""I5 and I6 for models that transformers made: its own config with every field at another value
than its default, imported and exported by the commands, and loaded again by transformers.

Needs another Python that has torch and transformers, named in GESSO_TRANSFORMERS_PYTHON.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gesso.export.agreement import probe
from gesso.export.parity import SCRIPT, _differences, their_batch
from gesso.export.reading import read_folder
from gesso.launch import cli
from gesso.pretrain.exits import DONE

PYTHON = os.environ.get("GESSO_TRANSFORMERS_PYTHON", "")
MAKER = Path(__file__).with_name("made_by_theirs.py")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="GESSO_TRANSFORMERS_PYTHON is not set"),
    pytest.mark.slow,
]
GPT = {"vocab_size": 261, "n_positions": 22, "n_layer": 3, "layer_norm_epsilon": 2e-3}
BERT = {
    "vocab_size": 261,
    "hidden_size": 21,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 26,
    "max_position_embeddings": 27,
    "type_vocab_size": 3,
    "layer_norm_eps": 2e-3,
}
NEOX = {
    "vocab_size": 261,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 34,
    "max_position_embeddings": 22,
    "layer_norm_eps": 2e-3,
}
ROTARY = {"rotary_pct": 0.75, "rotary_emb_base": 500.0}  # version 5 takes them over
OPT = {
    "vocab_size": 261,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "ffn_dim": 34,
    "max_position_embeddings": 22,
}
LLAMA = {
    "vocab_size": 261,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 34,
    "max_position_embeddings": 22,
    "rms_norm_eps": 2e-3,
}
T5 = {"vocab_size": 261, "d_model": 18, "d_kv": 7, "num_heads": 3, "num_layers": 2, "d_ff": 25}
# name -> (architecture, model_type, fields)
VARIANTS = {
    "gpt1": (
        *("OpenAIGPTLMHeadModel", "openai-gpt"),
        {**GPT, "n_embd": 20, "n_head": 5, "afn": "relu"},
    ),
    "gpt1-gelu": ("OpenAIGPTLMHeadModel", "openai-gpt", {**GPT, "n_embd": 21, "n_head": 3}),
    "gpt2": (
        *("GPT2LMHeadModel", "gpt2"),
        {
            **GPT,
            "n_embd": 20,
            "n_head": 5,
            "n_inner": 36,
            "activation_function": "gelu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2-unscaled": (
        *("GPT2LMHeadModel", "gpt2"),
        {
            **GPT,
            "n_embd": 18,
            "n_head": 3,
            "activation_function": "relu",
            "scale_attn_weights": False,
            "reorder_and_upcast_attn": True,
        },
    ),
    "gpt_neo": (
        *("GPTNeoForCausalLM", "gpt_neo"),
        {
            "vocab_size": 261,
            "hidden_size": 21,
            "num_layers": 4,
            "num_heads": 3,
            "intermediate_size": 30,
            "max_position_embeddings": 22,
            "attention_types": [[["local"], 1], [["global", "local", "global"], 1]],
            "window_size": 3,
            "activation_function": "relu",
            "layer_norm_epsilon": 2e-3,
        },
    ),
    "gpt_neo-untied": (
        *("GPTNeoForCausalLM", "gpt_neo"),
        {
            "vocab_size": 261,
            "hidden_size": 20,
            "num_layers": 2,
            "num_heads": 5,
            "max_position_embeddings": 22,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 5,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_j": (
        *("GPTJForCausalLM", "gptj"),
        {
            **GPT,
            "n_embd": 30,
            "n_head": 3,
            "n_inner": 34,
            "rotary_dim": 6,
            "activation_function": "gelu",
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "gpt_neox", {**NEOX, **ROTARY, "hidden_act": "relu"}),
    "gpt_neox-sequential": (
        *("GPTNeoXForCausalLM", "gpt_neox"),
        {
            **NEOX,
            **ROTARY,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    "opt": (
        *("OPTForCausalLM", "opt"),
        {**OPT, "word_embed_proj_dim": 24, "activation_function": "gelu", "enable_bias": False},
    ),
    "opt-bare": (
        *("OPTForCausalLM", "opt"),
        {**OPT, "word_embed_proj_dim": 24, "_remove_final_layer_norm": True},
    ),
    "opt-350m": (
        *("OPTForCausalLM", "opt"),
        {**OPT, "word_embed_proj_dim": 10, "do_layer_norm_before": False},
    ),
    "llama": ("LlamaForCausalLM", "llama", LLAMA),
    "llama-biased": (
        *("LlamaForCausalLM", "llama"),
        {
            **LLAMA,
            "num_key_value_heads": 6,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "mistral": ("MistralForCausalLM", "mistral", {**LLAMA, "sliding_window": 5}),
    "bert": ("BertForPreTraining", "bert", {**BERT, "hidden_act": "relu"}),
    "bert-masked": (
        *("BertForMaskedLM", "bert"),
        {**BERT, "hidden_act": "gelu_new", "tie_word_embeddings": False},
    ),
    "bert-classify": ("BertForSequenceClassification", "bert", {**BERT, "num_labels": 5}),
    "bert-tag": (
        *("BertForTokenClassification", "bert"),
        {**BERT, "num_labels": 4, "classifier_dropout": 0.3},
    ),
    "bert-answer": ("BertForQuestionAnswering", "bert", BERT),
    "bert-base": ("BertModel", "bert", BERT),
    "roberta": ("RobertaForMaskedLM", "roberta", {**BERT, "pad_token_id": 3}),
    "roberta-classify": (
        *("RobertaForSequenceClassification", "roberta"),
        {**BERT, "type_vocab_size": 1, "num_labels": 3},
    ),
    "t5": (
        *("T5ForConditionalGeneration", "t5"),
        {
            **T5,
            "num_decoder_layers": 3,
            "relative_attention_num_buckets": 6,
            "relative_attention_max_distance": 9,
            "layer_norm_epsilon": 2e-3,
            "decoder_start_token_id": 3,
        },
    ),
    "t5-gated": (
        *("T5ForConditionalGeneration", "t5"),
        {**T5, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    ),
    "bert2bert": (
        *("EncoderDecoderModel", "encoder-decoder"),
        {
            "encoder": {"model_type": "bert", **BERT},
            "decoder": {
                "model_type": "bert",
                **BERT,
                "hidden_size": 15,
                "num_hidden_layers": 2,
                "num_attention_heads": 5,
                "is_decoder": True,
                "add_cross_attention": True,
            },
            "start": 4,
        },
    ),
    "bert2gpt": (
        *("EncoderDecoderModel", "encoder-decoder"),
        {
            "encoder": {"model_type": "bert", **BERT},
            "decoder": {
                "model_type": "gpt2",
                **GPT,
                "n_embd": 20,
                "n_head": 5,
                "is_decoder": True,
                "add_cross_attention": True,
            },
            "start": 2,
        },
    ),
}
# An encoder-decoder never reads its encoder's pooler, and may draw it anew.
NOT_COMPARED = ("encoder.pooler",)


def theirs(*command):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, "-W", "ignore", str(MAKER), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment | offline,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """FOLDER/NAME as transformers saved it, FOLDER/NAME-out as we exported what we imported."""
    folder = tmp_path_factory.mktemp("made")
    asked_for = {
        name: {"architecture": each[0], "model_type": each[1], "fields": each[2]}
        for name, each in VARIANTS.items()
    }
    (folder / "variants.json").write_text(json.dumps(asked_for))
    theirs("make", folder / "variants.json", folder)
    folders = []
    for name in VARIANTS:
        run, out = str(folder / f"{name}-run"), str(folder / f"{name}-out")
        assert cli.main(["import", str(folder / name), run, "--tokenizer", "bytes"]) == DONE, name
        assert cli.main(["export", run, out]) == DONE, name
        config = read_folder(out).config
        for each in (folder / name, Path(out)):
            np.savez(each / "asked.npz", **their_batch(config, probe(config)))
            folders.append(each)
    theirs("run", SCRIPT, *folders)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_ours_is_theirs(made, name):
    """The same outputs of what they saved and of what we wrote, and the same tensors in both."""
    for folder in (made / name, made / f"{name}-out"):
        with np.load(folder / "made.npz") as found:
            said = dict(found)
        for which in ("missing", "unexpected"):
            wrong = [each for each in said[which] if not each.startswith(NOT_COMPARED)]
            assert not wrong, (folder.name, which)
        imported = read_folder(folder)
        differences = _differences(imported, probe(imported.config), said)
        kinds = {each.output.partition("/")[0] for each in differences}
        assert len(kinds) >= 2 and any("hidden" in each for each in kinds), kinds
        for each in differences:
            # float32 rounding over a few layers, as a share of the values
            assert each.apart <= 5e-5 * max(1.0, each.largest), (folder.name, each)
    unread = read_folder(made / name).buffers
    before = load_file(made / name / "model.safetensors")
    before = {tensor: x for tensor, x in before.items() if tensor not in unread}
    after = load_file(made / f"{name}-out" / "model.safetensors")
    if name == "bert-base":  # of a base model alone they leave out the prefix, which we write
        before = {f"bert.{tensor}": x for tensor, x in before.items()}
    for tensor in before.keys() & after.keys():
        assert np.array_equal(before[tensor], after[tensor]), tensor
    assert len(before.keys() & after.keys()) >= 0.9 * len(before)
    # A name in one of them alone is a copy of one in both, under a tied name.
    for tensor, x in [*before.items(), *after.items()]:
        if not (tensor in before and tensor in after):
            assert any(np.array_equal(x, y) for y in before.values()), tensor
