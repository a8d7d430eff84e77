"""Counted parameters and FLOPs against what is built, published and compiled."""

import dataclasses

import jax
import numpy as np
import pytest
from families import FAMILIES

from gesso import configs
from gesso.models import GPTConfig, build
from gesso.models.count import flops_per_token, parameters

PUBLISHED = {
    "gpt1-117m": 116_534_784,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-1.3b": 1_315_575_808,
    "gpt-neo-2.7b": 2_651_307_520,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "llama-1.1b": 1_100_048_384,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_have_the_published_parameters(name):
    config = configs.experiment(name).model
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    built = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    assert parameters(config)["total"] == built == PUBLISHED[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biases", [(), ("qkv", "attention_out", "mlp", "head")])
def test_parameters_are_those_of_the_model(family, biases):
    config = dataclasses.replace(FAMILIES[family], biases=biases, mlp=48)
    model = build(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    counted = parameters(config)
    assert counted["total"] == sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    looked_up = [shapes["embed"]] + ([shapes["positions"]] if "positions" in shapes else [])
    assert counted["embedding"] == sum(int(np.prod(x.shape)) for x in looked_up)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gpt_j", "llama"])
def test_flops_are_those_of_the_compiled_program(family):
    """Unrolled (XLA counts a loop's body once), with dense attention, whose masked half is counted
    by XLA and not by us. What is left over is elementwise work, small for wide models."""
    length, rows = 64, 2
    config = dataclasses.replace(
        FAMILIES[family],
        positions=length,
        embed=256,
        mlp=1024,
        vocab=2048,
        attention="dense",
        unroll=4,
        attention_logits="compute",
    )
    model = build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((rows, length), np.int32)

    def loss(params, tokens):
        return model.apply(params, {"tokens": tokens})["logits"].mean()

    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, tokens)
    executed = lowered.cost_analysis()["flops"]
    whole = dataclasses.replace(config, pattern=("global",), window=0)
    masked = 6 * config.layers * config.embed * length
    counted = rows * length * (flops_per_token(whole, length) + masked)
    assert 1 <= executed / counted < 1.06


def test_the_formula():
    config = GPTConfig(layers=3, embed=8, heads=2, mlp=32, vocab=11, positions=64)
    matmul = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 11 * 8
    assert parameters(config)["matmul"] == matmul
    assert flops_per_token(config, 64) == 6 * matmul + 6 * 3 * 8 * 64
    local = dataclasses.replace(config, pattern=("local",), window=16)
    seen = np.minimum(np.arange(64) + 0.5, 16)  # keys a query sees, its own counted half
    assert flops_per_token(local, 64) == pytest.approx(6 * matmul + 12 * 3 * 8 * seen.mean())
    wide = dataclasses.replace(config, pattern=("local",), window=1000)
    assert flops_per_token(wide, 64) == flops_per_token(config, 64)
