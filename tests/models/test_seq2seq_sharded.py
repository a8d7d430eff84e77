"""I1 for the encoder-decoder: on every layout the bits, loss and gradients of a single device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from seq2seq_families import FAMILIES, params_of, rows_of

from gesso.models import build
from gesso.objectives.cross_entropy import cross_entropy
from gesso.partitioning.axes import partition, placements, spec
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

# The last splits a target's length over two devices, and the encoder's work as well.
CASES = {
    "fsdp-t5": ("fsdp", MeshConfig(data=2, fsdp=4), "t5"),
    "tensor-learned": ("tensor", MeshConfig(data=4, tensor=2), "learned"),
    "fsdp_tensor-transformer": ("fsdp_tensor", MeshConfig(data=2, fsdp=2, tensor=2), "transformer"),
    "fsdp_tensor-t5_1_1-sequence": (
        "fsdp_tensor",
        MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
        "t5_1_1",
    ),
}


def batch_of():
    """8 rows of two pieces and padding."""
    generator = np.random.default_rng(0)
    pieces = [
        (row, *(generator.integers(0, 64, generator.integers(3, 9)).tolist() for _ in range(2)))
        for row in (*range(8), *range(8))
    ]
    batch = rows_of(pieces, rows=8, source=18, length=20)
    weight = (batch["segments"] > 0).astype(np.float32)
    targets = np.where(weight > 0, np.roll(batch["tokens"], -1, axis=1), 0).astype(np.int32)
    return batch | {"targets": targets, "lm_weight": weight}


def loss_of(model):
    def loss(params, batch):
        module = model.merge(params)
        x_BLD = module.features(batch, jax.random.key(1))
        scored = cross_entropy(x_BLD, batch["targets"], *module.head(), chunk_tokens=80)
        return jnp.sum(scored.nll_BL * batch["lm_weight"]) / batch["lm_weight"].sum()

    return loss


@functools.cache
def single_device(family):
    config = FAMILIES[family]
    model, batch = build(config), batch_of()
    params = params_of(model)
    return model, batch, params, jax.jit(jax.value_and_grad(loss_of(model)))(params, batch)


SLOW = ("fsdp-t5", "tensor-learned")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES]
)
def test_sharded_equals_single_device(case):
    layout, mesh, family = CASES[case]
    with jax.default_matmul_precision("highest"):
        model, batch, params, (want, want_gradient) = single_device(family)
        devices, rules = make_mesh(mesh), LAYOUTS[layout]
        at_rest = placements(model.letters, rules.at_rest, devices)
        in_flight = {
            name: NamedSharding(
                devices, spec("BS" if name.startswith("source") else "BL", rules.in_flight)
            )
            for name in batch
        }
        with partition(devices, rules):
            placed = jax.device_put(params, at_rest)
            step = jax.jit(
                jax.value_and_grad(loss_of(model)),
                in_shardings=(at_rest, in_flight),
                out_shardings=(None, at_rest),
            )
            got, gradient = step(placed, batch)
    # Sums over shards are added in another order: some ulps of float32.
    assert abs(float(got) - float(want)) < 2e-6 * float(want)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * largest)


def test_parameters_begin_the_same():
    model = build(FAMILIES["t5_1_1"])
    mesh, rules = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), LAYOUTS["fsdp_tensor"]
    at_rest = placements(model.letters, rules.at_rest, mesh)
    with partition(mesh, rules):
        placed = jax.jit(model.init, out_shardings=at_rest)(jax.random.key(0))
    params = jax.jit(model.init)(jax.random.key(0))
    for x, y in zip(jax.tree.leaves(placed), jax.tree.leaves(params), strict=True):
        # The bits drawn are the same; on a share of another shape the compiler may round the
        # products of the inverse error function otherwise (JAX 0.12, a table of 8 x 4).
        np.testing.assert_array_max_ulp(np.asarray(x), np.asarray(y), maxulp=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_splits_lies_split(layout, family):
    """Every parameter with a split letter has that dim over the mesh axis."""
    mesh, rules = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), LAYOUTS[layout]
    model = build(FAMILIES[family])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    placed = placements(model.letters, rules.at_rest, mesh)
    for letters, shape, place in zip(
        *map(jax.tree.leaves, (model.letters, shapes, placed)), strict=True
    ):
        local = place.shard_shape(shape.shape)
        for letter, whole, part in zip(letters, shape.shape, local, strict=True):
            assert part * (2 if letter in rules.at_rest else 1) == whole, (letters, letter)
