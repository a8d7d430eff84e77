"""Counted parameters and FLOPs of encoder-decoders against what is built, published, compiled."""

import dataclasses

import jax
import numpy as np
import pytest
from seq2seq_families import FAMILIES

from gesso import configs
from gesso.models import Seq2SeqConfig, build
from gesso.models.count import flops_per_token, parameters

# Of the checkpoints that bear these names; the Transformer's as its paper rounds them.
PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "transformer-base": 65e6,
    "transformer-big": 213e6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_have_the_published_parameters(name):
    config = configs.experiment(name).model
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    built = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    rounded = 0.04 if name.startswith("transformer") else 0
    assert parameters(config)["total"] == built
    assert built == pytest.approx(PUBLISHED[name], rel=rounded, abs=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biases", [(), ("mlp",), ("qkv", "attention_out", "mlp", "head")])
def test_parameters_are_those_of_the_model(family, biases):
    config = dataclasses.replace(FAMILIES[family], biases=biases, mlp=48, decoder_layers=5)
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    counted = parameters(config)
    assert counted["total"] == sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


def test_flops_are_those_of_the_compiled_program():
    """Unrolled (XLA counts a loop's body once); what causality masks is computed and counted by
    XLA. What is left over is elementwise work, small for wide models."""
    length, rows = 64, 2
    config = Seq2SeqConfig(vocab=2048, embed=256, heads=4, head_dim=64, mlp=1024, unroll=2)
    model = build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((rows, length), np.int32)

    def loss(params, source, tokens):
        return model.apply(params, {"source": source, "tokens": tokens})["logits"].mean()

    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, ids, ids)
    executed = lowered.cost_analysis()["flops"]
    masked = 12 * config.decoder_layers * config.embed * length / 2 / 2  # per token of both sides
    counted = 2 * rows * length * (flops_per_token(config, length) + masked)
    assert 1 <= executed / counted < 1.06


def test_the_formula():
    config = Seq2SeqConfig(vocab=11, embed=8, heads=2, head_dim=3, mlp=32, decoder_layers=3)
    attention, mlp = 4 * 8 * 6, 2 * 8 * 32
    matmul = 2 * (attention + mlp) + 3 * (2 * attention + mlp) + 11 * 8
    assert parameters(config)["matmul"] == matmul
    keys = 2 * 64 + 3 * (64 + 32)  # the source's of itself, the target's of the source and itself
    assert flops_per_token(config, 64) == (6 * matmul + 12 * 6 * keys) / 2
