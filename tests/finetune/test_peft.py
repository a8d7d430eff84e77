"""Adapters against peft: logits, loss, gradients, merged weights, folders both ways.

Needs another Python that has torch, transformers and peft, named in GESSO_PEFT_PYTHON; skipped
without. It was run with torch 2.13, transformers 5.23 and peft 0.21.2.
"""

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.export import read_folder, write_folder
from gesso.finetune.adapters.peft_folder import read_adapter, write_adapter
from gesso.finetune.adapters.peft_layout import modules_of, theirs
from gesso.models import build
from gesso.models.adapters.adapters import adapted_names, bind, init
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import merge
from gesso.models.config import BERTConfig, GPTConfig, Seq2SeqConfig
from gesso.models.trees import flat

PYTHON = os.environ.get("GESSO_PEFT_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="GESSO_PEFT_PYTHON is not set"),
    pytest.mark.slow,
]
SIZES: dict[str, Any] = {
    "vocab": 60,
    "positions": 40,
    "layers": 2,
    "embed": 32,
    "heads": 4,
    "mlp": 64,
}
GPT2 = GPTConfig(**SIZES)
NEO = GPTConfig(
    **SIZES,
    pattern=("global", "local"),
    window=5,
    attention_scale="none",
    biases=("attention_out", "mlp"),
)
NEOX = GPTConfig(
    **SIZES,
    position_encoding="rotary",
    rotary_dims=4,
    rotation="half",
    block="parallel",
    activation="gelu",
    head="untied",
)
BERT = BERTConfig(**SIZES, outputs=("pooler", "mlm"))
T5 = Seq2SeqConfig(
    vocab=60, encoder_layers=2, decoder_layers=2, embed=32, heads=4, head_dim=8, mlp=64,
    position_encoding="relative", relative_buckets=8, relative_distance=16,
    embedding_scale="none", norm="pre", norm_kind="rms",
    attention_scale="none", biases=(), head_scale="rsqrt_embed",
)  # fmt: skip
LORA: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2 fused q and v": (GPT2, {}),
    "gpt2 rsLoRA": (GPT2, {"scaling": "sqrt_rank"}),
    "gpt2 q, k and every other product": (
        GPT2,
        {"targets": ("*attention/q", "*attention/k", "*out", "blocks/mlp/*p", "*down")},
    ),
    "gpt-neo unfused": (NEO, {}),
    "gpt-neo with words": (
        dataclasses.replace(NEO, head="untied"),
        {"targets": ("embed", "*attention/v")},
    ),
    "gpt-neox interleaved": (NEOX, {"targets": ("*attention/v", "*attention/out")}),
    "bert": (BERT, {"targets": ("*attention/q", "*mlp/up", "*mlp/down")}),
    "t5": (T5, {"targets": ("*attention/q", "*attention/v", "*mlp/*")}),
}  # fmt: skip


def drawn(config):
    """Parameters larger than at the start of training, so that every path matters."""
    model = build(config)
    params = jax.jit(model.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    spread = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, spread)


def text(model, rng):
    tokens = rng.integers(8, 60, (2, 12)).astype(np.int32)
    targets = rng.integers(8, 60, (2, 12)).astype(np.int32)
    weights = rng.random((2, 12)).astype(np.float32)
    scored = {"targets": targets, "weights": weights}
    if not model.has_encoder:
        return {"tokens": tokens}, {"input_ids": tokens.astype(np.int64), **scored}
    source = rng.integers(8, 60, (2, 9)).astype(np.int32)
    asked = {"input_ids": source.astype(np.int64), "decoder_input_ids": tokens.astype(np.int64)}
    return {"tokens": tokens, "source": source}, asked | scored


def run_peft(mode, folder: Path, given, settings=None):
    np.savez(folder / "in.npz", **given)
    script = Path(__file__).parent / "peft_side.py"
    command = [PYTHON, script, mode, folder / "base", folder / "adapter"]
    command += [folder / "in.npz", folder / "out.npz", json.dumps(settings or {})]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "out.npz"))


def score(model, config, params, batch, given):
    def loss(adapter):
        logits = model.apply(bind(params, adapter, config), batch)["logits"]
        log_p = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_p, given["targets"][..., None], -1)[..., 0]
        return (nll * given["weights"]).sum() / given["weights"].sum(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def close(a, b, *, atol=2e-5):
    # float32 rounding of sums in another order, as a share of the largest value
    np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("name", LORA)
def test_a_lora_of_ours_is_theirs(name, tmp_path):
    config, settings = LORA[name]
    model, params = drawn(config)
    lora = AdapterConfig(kind="lora", rank=3, alpha=7, **settings)
    adapter = init(lora, jax.random.key(2), params, model.letters)
    adapter = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter
    )
    write_folder(tmp_path / "base", config, jax.tree.map(np.asarray, params))
    write_adapter(tmp_path / "adapter", model, lora, adapter)
    batch, given = text(model, np.random.default_rng(0))
    found = run_peft("load", tmp_path, given)
    (loss, logits), gradients = score(model, lora, params, batch, given)(adapter)
    close(logits, found["logits"])
    close(loss, found["loss"])
    grads = {each: np.asarray(x) for each, x in flat(gradients).items()}
    arrays = {each: np.asarray(x) for each, x in flat(adapter).items()}
    compared = 0
    for module in modules_of(model, dict.fromkeys(adapted_names(adapter))):
        a, b = theirs(module, grads, lora)
        _, mask = theirs(module, {each: np.ones_like(x) for each, x in arrays.items()}, lora)
        stem = f"gradient/base_model.model.{module.name}.lora_"
        if module.is_table:
            their_a, their_b = found[f"{stem}embedding_A"], found[f"{stem}embedding_B"]
        else:
            their_a, their_b = found[f"{stem}A.weight"], found[f"{stem}B.weight"]
        close(a, their_a)
        # Where a tensor holds several products, our B is zero off its block and is not trained.
        close(b, their_b * mask)
        compared += 2
    assert compared == len([each for each in found if each.startswith("gradient/")])
    merged = merge(params, adapter, lora, model.letters).params
    write_folder(tmp_path / "merged", config, merged)
    from safetensors.numpy import load_file

    ours = load_file(tmp_path / "merged" / "model.safetensors")
    its = {n.removeprefix("merged/"): x for n, x in found.items() if n.startswith("merged/")}
    assert len(ours.keys() & its.keys()) >= len(ours) - 2
    for each in ours.keys() & its.keys():
        close(ours[each], its[each], atol=1e-6)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (GPT2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        (GPT2, {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 2},
                "alpha_pattern": {"h.0.mlp.c_fc": 3}, "fan_in_fan_out": True}),
        (NEO, {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
        (NEOX, {"target_modules": ["query_key_value", "dense"], "layers_to_transform": [1]}),
    ],
    ids=["gpt2", "gpt2 of several ranks", "gpt-neo rsLoRA", "gpt-neox, one layer"],
)  # fmt: skip
def test_a_lora_of_theirs_is_ours(config, settings, tmp_path):
    model, params = drawn(config)
    write_folder(tmp_path / "base", config, jax.tree.map(np.asarray, params))
    batch, given = text(model, np.random.default_rng(1))
    wanted = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    found = run_peft("make", tmp_path, given, wanted)
    read = read_adapter(tmp_path / "adapter", model)
    (loss, logits), gradients = score(model, read.config, params, batch, given)(read.adapter)
    close(logits, found["logits"])
    close(loss, found["loss"])
    if settings.get("target_modules") == ["c_attn"]:
        # One A for q, k and v there: its gradient is the sum of our three.
        a: Any = sum(np.asarray(gradients["blocks"]["attention"][each]["a"]) for each in "qkv")
        for layer in range(2):
            name = f"gradient/base_model.model.transformer.h.{layer}.attn.c_attn.lora_A.weight"
            close(a[layer].T, found[name])


def test_a_prompt_of_ours_is_theirs_and_back(tmp_path):
    model, params = drawn(GPT2)
    config = AdapterConfig(kind="prompt", tokens=5)
    adapter = init(config, jax.random.key(2), params, model.letters)
    write_folder(tmp_path / "base", GPT2, jax.tree.map(np.asarray, params))
    write_adapter(tmp_path / "adapter", model, config, adapter)
    batch, given = text(model, np.random.default_rng(2))
    found = run_peft("load", tmp_path, given)
    (loss, logits), _ = score(model, config, params, batch, given)(adapter)
    close(logits, found["logits"])
    close(loss, found["loss"])
    wanted = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
    found = run_peft("make", tmp_path, given, wanted)
    read = read_adapter(tmp_path / "adapter", model)
    assert read.config.tokens == 4
    (_, logits), gradients = score(model, read.config, params, batch, given)(read.adapter)
    close(logits, found["logits"])
    [theirs_too] = [x for name, x in found.items() if name.startswith("gradient/")]
    close(gradients["virtual"], theirs_too)


def test_the_base_survives_the_way(tmp_path):
    model, params = drawn(GPT2)
    write_folder(tmp_path / "base", GPT2, jax.tree.map(np.asarray, params))
    again = flat(read_folder(tmp_path / "base").params)
    assert all((again[name] == np.asarray(x)).all() for name, x in flat(params).items())
