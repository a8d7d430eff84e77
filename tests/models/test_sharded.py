"""I1 for models: on any layout and mesh the initial bits, loss and gradients of a single device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES
from jax.sharding import NamedSharding

from gesso.models import build
from gesso.objectives import CausalLM, CausalLMConfig
from gesso.partitioning.axes import partition, placements, spec
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

MESHES = {
    "replicated": MeshConfig(data=8),
    "fsdp": MeshConfig(data=2, fsdp=4),
    "tensor": MeshConfig(data=4, tensor=2),
    "fsdp_tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}
CASES = [(layout, MESHES[layout], family) for layout in MESHES for family in FAMILIES] + [
    (layout, MeshConfig(data=1, fsdp=2, sequence=2, tensor=2), family)
    for layout, family in (("fsdp_tensor", "gpt_neo"), ("fsdp_tensor", "gpt_j"))
]


def batch_of(rows, length):
    generator = np.random.default_rng(0)
    segments = np.sort(generator.integers(1, 4, (rows, length + 1)), axis=1).astype(np.int32)
    segments[:, -3:] = 0
    new = np.diff(segments, axis=1, prepend=-1) != 0
    starts = np.maximum.accumulate(np.where(new, np.arange(length + 1), 0), axis=1)
    data = {
        "tokens": generator.integers(0, 64, (rows, length + 1)).astype(np.int32),
        "segments": segments,
        "positions": (np.arange(length + 1) - starts).astype(np.int32),
        "component": np.zeros(rows, np.int32),
    }
    return CausalLM(CausalLMConfig()).host_batch(data)


def loss_of(model):
    objective = CausalLM(CausalLMConfig(z_loss=1e-2, chunk_tokens=64))

    def loss(params, batch):
        losses = objective(model.merge(params), batch, jax.random.key(1))
        total = losses["lm"] + 1e-2 * losses["z"]
        return jnp.sum(total * batch["lm_weight"]) / batch["lm_weight"].sum()

    return loss


@functools.cache
def single_device(family):
    config = dataclasses.replace(FAMILIES[family], layers=2, attention_dropout=0.1)
    model, batch = build(config), batch_of(8, 24)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, batch, params, jax.jit(jax.value_and_grad(loss_of(model)))(params, batch)


def slow_or_not(layout, mesh, family):
    """The two families that pretraining is for are laid out both ways at once, one of them over
    the sequence too, and so are an own width of the table and shared keys; the rest takes long."""
    kept = layout == "fsdp_tensor" and family in ("gpt_neo", "gpt_j", "opt_350m", "llama")
    marks = () if kept else pytest.mark.slow
    return pytest.param(layout, mesh, family, marks=marks, id=f"{layout}-{mesh.sequence}-{family}")


@pytest.mark.parametrize(("layout", "mesh", "family"), [slow_or_not(*case) for case in CASES])
def test_sharded_equals_single_device(layout, mesh, family, monkeypatch):
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 8)
    with jax.default_matmul_precision("highest"):
        model, batch, params, (want, want_gradient) = single_device(family)
        devices, rules = make_mesh(mesh), LAYOUTS[layout]
        at_rest = placements(model.letters, rules.at_rest, devices)
        in_flight = {
            name: NamedSharding(devices, spec("BL"[: leaf.ndim], rules.in_flight))
            for name, leaf in batch.items()
        }
        with partition(devices, rules):
            placed = jax.jit(model.init, out_shardings=at_rest)(jax.random.key(0))
            step = jax.jit(
                jax.value_and_grad(loss_of(model)),
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
