"""The TPU's fused attention against the plain one, its program run without a TPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from gesso.configs import experiment
from gesso.models import GPTConfig, build
from gesso.models.layers import kernels, splash
from gesso.partitioning.axes import partition
from gesso.partitioning.config import AXES
from gesso.partitioning.layouts import LAYOUTS
from gesso.pretrain.checks import validate
from gesso.pretrain.experiment import ExperimentError, override

CONFIG = GPTConfig(
    vocab=64,
    positions=256,
    layers=2,
    embed=64,
    mlp=64,
    heads=4,
    pattern=("global", "local"),
    window=70,
    attention="splash",
)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(splash, "INTERPRET", True)


def packed(rows: int) -> dict:
    """Documents of many lengths, then padding."""
    random = np.random.default_rng(0)
    ends = np.sort(random.integers(20, 250, (rows, 3)))
    places = np.arange(256)
    segments = 1 + (places[None, :, None] >= ends[:, None, :2]).sum(-1)
    segments[places[None] >= ends[:, 2:]] = 0
    tokens = random.integers(1, 64, (rows, 256))
    return {"tokens": jnp.asarray(tokens, jnp.int32), "segments": jnp.asarray(segments, jnp.int32)}


def learnt(config: GPTConfig, batch: dict, params=None) -> tuple:
    model = build(config)
    params = model.init(jax.random.key(1)) if params is None else params
    counted = (batch["segments"] > 0)[..., None]

    def loss(params):
        logits = model.apply(params, batch)["logits"]
        return jnp.where(counted, jnp.sin(logits), 0.0).sum(), jnp.where(counted, logits, 0.0)

    with jax.default_matmul_precision("highest"):
        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return logits, gradient


def close(found, wanted):
    """Logits and gradients, to float32 roundings of the largest gradient there is."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    largest = max(float(jnp.abs(y).max()) for y in jax.tree.leaves(wanted[1]))
    for x, y in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * largest)


@pytest.mark.parametrize("remat", ["none", "save_attention"])
def test_documents_and_windows_are_those_of_dense(remat):
    batch = packed(2)
    config = dataclasses.replace(CONFIG, remat=remat)
    close(learnt(config, batch), learnt(dataclasses.replace(CONFIG, attention="dense"), batch))


def test_a_kept_result_is_not_computed_again(monkeypatch):
    """Lowered for a TPU: where a policy saves attention, no forward kernel runs backwards."""
    monkeypatch.setattr(splash, "INTERPRET", False)
    monkeypatch.setattr(kernels, "runs_here", lambda length: True)
    batch = packed(1)

    def forwards(remat: str) -> int:
        model = build(dataclasses.replace(CONFIG, remat=remat))
        params = jax.eval_shape(model.init, jax.random.key(1))
        gradient = jax.jit(jax.grad(lambda params: model.apply(params, batch)["logits"].sum()))
        program = gradient.trace(params).lower(lowering_platforms=("tpu",)).as_text()
        return len(re.findall('kernel_name = "splash_mha_fwd', program))

    assert forwards("full") == 2 * forwards("save_attention") > 0


@pytest.mark.parametrize("shape", [[1, 2, 2, 1, 2], [1, 1, 2, 2, 2]])
def test_each_device_has_its_rows_and_heads(shape):
    batch = packed(8)
    devices = np.array(jax.devices()).reshape(shape)
    mesh = Mesh(devices, AXES)
    model = build(CONFIG)
    params = model.init(jax.random.key(1))
    with partition(mesh, LAYOUTS["fsdp_tensor"]):
        many = learnt(CONFIG, batch, params)
    close(many, learnt(CONFIG, batch, params))


def test_without_a_tpu_it_is_blocks(monkeypatch):
    monkeypatch.setattr(splash, "INTERPRET", False)
    batch = packed(1)
    found = learnt(CONFIG, batch)
    blocks = learnt(dataclasses.replace(CONFIG, attention="blocks"), batch)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("changes", "devices", "why"),
    [
        ({"mesh.sequence": 2}, 2, "reads whole rows"),
        ({"length": 100}, 1, "a multiple of 128, not 100"),
        ({"model.attention_dropout": 0.1}, 1, "splash has no attention_dropout"),
    ],
)
def test_what_it_cannot_do_is_refused(changes, devices, why):
    plain = {"model.attention": "splash", "length": 256, "model.positions": 256, "mesh.data": 1}
    with pytest.raises(ExperimentError, match=why):
        validate(override(experiment("debug-gpt2"), plain | changes), devices=devices)
