"""The alphabet places every array, and refuses what it cannot place."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from gesso.partitioning.axes import (
    ALPHABET,
    at_rest,
    axes_of,
    einsum,
    partition,
    placements,
    shard,
    spec,
)
from gesso.partitioning.config import AXES, OPTIMIZER_OVER, PARAMETERS_OVER, MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import batch_splits, make_mesh


def test_spec_spells_letters():
    assert spec("BLD", {"B": ("data", "fsdp"), "L": "sequence"}) == P(
        ("data", "fsdp"), "sequence", None
    )


def test_spec_refuses_one_mesh_axis_for_two_dims():
    with pytest.raises(ValueError, match="twice"):
        spec("NF", {"N": "tensor", "F": "tensor"})


def test_spec_refuses_letters_outside_the_alphabet():
    with pytest.raises(ValueError, match="outside the alphabet.*'q'"):
        spec("Bq", {})


def test_shard_refuses_a_wrong_number_of_letters():
    with pytest.raises(ValueError, match=r"\(2, 3\) cannot be 'BLD'"):
        shard(jnp.zeros((2, 3)), "BLD")


def test_outside_partition_nothing_is_placed():
    x = jnp.ones((2, 3))
    assert shard(x, "BL") is x
    assert at_rest({"x": x}, {"x": "BL"})["x"] is x


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_speak_the_alphabet_and_the_mesh(name):
    for table in (LAYOUTS[name].at_rest, LAYOUTS[name].in_flight):
        assert set(table) <= set(ALPHABET)
        axes = [a for v in table.values() for a in ((v,) if isinstance(v, str) else v)]
        assert set(axes) <= set(AXES)


@pytest.mark.parametrize("name", LAYOUTS)
def test_settings_know_what_a_layout_splits_without_jax(name):
    for over, table in (
        (PARAMETERS_OVER, LAYOUTS[name].at_rest),
        (OPTIMIZER_OVER, LAYOUTS[name].in_update),
    ):
        assert set(over[name]) == {axis for letter in table for axis in axes_of(table, letter)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_einsum_is_the_same_on_every_layout_and_splits_as_told(name):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jax.random.normal(jax.random.key(0), (8, 4, 16))
    w = jax.random.normal(jax.random.key(1), (16, 4, 8))
    expected = jnp.einsum("BLD,DNH->BLNH", x, w)
    with partition(mesh, LAYOUTS[name]):
        placed = jax.device_put(w, placements("DNH", LAYOUTS[name].at_rest, mesh))
        got = jax.jit(lambda x, w: einsum("BLD,DNH->BLNH", x, w))(x, placed)
    assert jnp.allclose(got, expected, atol=1e-5)
    assert got.sharding.is_equivalent_to(
        placements("BLNH", LAYOUTS[name].in_flight, mesh), got.ndim
    )
    at_rest_parts = 16 * 4 * 8 // placed.addressable_shards[0].data.size
    assert (
        at_rest_parts
        == {"replicated": 1, "fsdp": 2, "tensor": 2, "fsdp_tensor": 4, "fsdp_optimizer": 1}[name]
    )


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (1, 8, 1, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 1, 8, 1, 1)),
        (MeshConfig(replica=2, data=1, fsdp=2, tensor=2), (2, 1, 2, 1, 2)),
    ],
)
def test_mesh_sizes(config, sizes):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.axis_names == AXES
    assert batch_splits(mesh) == sizes[0] * sizes[1] * sizes[2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3), "multiply to 8"),
        (MeshConfig(data=-1, fsdp=-1), "only one mesh axis"),
        (MeshConfig(tensor=0), "positive"),
        (MeshConfig(tensor=3), "multiply to 8"),
    ],
)
def test_meshes_that_cannot_be(config, message):
    with pytest.raises(ValueError, match=message):
        config.sizes(8)
