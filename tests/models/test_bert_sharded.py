"""I1 for BERT and joined encoders and decoders: on any layout the loss and gradients of a single
device, from the same initial bits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from seq2seq_families import packed_and_alone

from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig, build
from gesso.objectives.config import MaskedLMConfig
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.masked import MaskedLM
from gesso.partitioning.axes import partition, placements, spec
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

SHAPE = {"vocab": 64, "positions": 32, "heads": 4, "mlp": 64}
SIDE = BERTConfig(**SHAPE, embed=32)
MODELS = {
    "bert": dataclasses.replace(SIDE, outputs=("mlm", "nsp"), attention_dropout=0.1),
    "bert2gpt": EncoderDecoderConfig(
        encoder=dataclasses.replace(SIDE, embed=48, outputs=(), attention="dense"),
        decoder=GPTConfig(**SHAPE, embed=32, attention="dense"),
    ),
}
LETTERS = dict(MaskedLM.letters) | dict.fromkeys(
    ("source", "source_segments", "source_positions"), "BS"
)
SEQUENCE = MeshConfig(data=1, fsdp=2, sequence=2, tensor=2)
CASES = [
    ("fsdp", MeshConfig(data=2, fsdp=4), "bert"),
    ("tensor", MeshConfig(data=4, tensor=2), "bert"),
    ("fsdp_tensor", SEQUENCE, "bert"),
    ("fsdp_tensor", SEQUENCE, "bert2gpt"),
]


def masked_batch(rows, length):
    """Two texts in each row and padding behind them, some places predicted."""
    generator = np.random.default_rng(0)
    segments = np.repeat([[1] * 9 + [2] * (length - 12) + [0] * 3], rows, axis=0)
    first = np.where(np.arange(length) < 9, np.arange(length), np.arange(length) - 9)
    return {
        "tokens": generator.integers(0, 64, (rows, length)),
        "segments": segments,
        "positions": np.repeat(first[None], rows, axis=0) * (segments > 0),
        "token_types": generator.integers(0, 2, (rows, length)),
        "masked_places": generator.integers(0, length - 3, (rows, 4)),
        "targets": generator.integers(0, 64, (rows, 4)),
        "mlm_weight": generator.integers(0, 2, (rows, 4)),
        "pair_places": np.repeat([[0, 9]], rows, axis=0),
        "pair_labels": generator.integers(0, 2, (rows, 2)),
        "nsp_weight": np.ones((rows, 2)),
    }


def batch_of(family):
    if family == "bert":
        batch = masked_batch(8, 24)
    else:
        packed, alone = packed_and_alone()
        batch = {name: np.tile(np.concatenate([packed[name][:1], alone[name]]), (2, 1))
                 for name in packed}  # fmt: skip
        batch["targets"] = batch["tokens"][:, ::-1]
    weights = {name: x.astype(np.float32) for name, x in batch.items() if name.endswith("weight")}
    return {name: x.astype(np.int32) for name, x in batch.items()} | weights


def loss_of(model, family):
    masked = None
    if family == "bert":
        config = MaskedLMConfig(pairs="nsp", mask=4, cls=2, sep=3)
        masked = MaskedLM(config, model=model.config)

    def loss(params, batch):
        module, key = model.merge(params), jax.random.key(1)
        if masked is not None:
            values = masked(module, batch, key)
            mlm = jnp.sum(values["mlm"] * batch["mlm_weight"]) / batch["mlm_weight"].sum()
            return mlm + jnp.sum(values["nsp"] * batch["nsp_weight"]) / batch["nsp_weight"].sum()
        x_BLD = module.features(batch, key)
        nll = cross_entropy(x_BLD, batch["targets"], *module.head(), chunk_tokens=0).nll_BL
        seen = batch["segments"] > 0
        return jnp.sum(nll * seen) / seen.sum()

    return loss


@functools.cache
def single_device(family):
    model, batch = build(MODELS[family]), batch_of(family)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, batch, params, jax.jit(jax.value_and_grad(loss_of(model, family)))(params, batch)


def slow_or_not(layout, mesh, family):
    marks = () if layout == "fsdp_tensor" else pytest.mark.slow
    return pytest.param(layout, mesh, family, marks=marks, id=f"{layout}-{mesh.sequence}-{family}")


@pytest.mark.parametrize(("layout", "mesh", "family"), [slow_or_not(*case) for case in CASES])
def test_sharded_equals_single_device(layout, mesh, family, monkeypatch):
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 16)
    with jax.default_matmul_precision("highest"):
        model, batch, params, (want, want_gradient) = single_device(family)
        devices, rules = make_mesh(mesh), LAYOUTS[layout]
        at_rest = placements(model.letters, rules.at_rest, devices)
        in_flight = {
            name: NamedSharding(devices, spec(LETTERS.get(name, "BL"), rules.in_flight))
            for name in batch
        }
        with partition(devices, rules):
            if mesh is SEQUENCE and family == "bert":  # once: init takes long to compile
                placed = jax.jit(model.init, out_shardings=at_rest)(jax.random.key(0))
            else:
                placed = jax.device_put(params, at_rest)
            step = jax.jit(
                jax.value_and_grad(loss_of(model, family)),
                in_shardings=(at_rest, in_flight),
                out_shardings=(None, at_rest),
            )
            got, gradient = step(placed, batch)
    for x, y in zip(jax.tree.leaves(placed), jax.tree.leaves(params), strict=True):
        assert (np.asarray(x) == np.asarray(y)).all()
    # Sums over shards are added in another order: some ulps of float32.
    assert abs(float(got) - float(want)) < 2e-6 * float(want)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * largest)
