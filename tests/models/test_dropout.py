"""Dropout: the rate asked for, choices that know nothing of each other, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry2x32_p
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gesso.models.layers.dropout import _threefry, dropout


def kept(shape: tuple[int, ...], rate: float, seed: int = 0) -> np.ndarray:
    return np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(seed)) != 0)


def test_the_hash_is_jaxs_own() -> None:
    key, counts = (jax.random.bits(jax.random.key(i), (2, 1000)) for i in range(2))
    ours = _threefry(key[:, 7], *counts)
    theirs = threefry2x32_p.bind(*(jnp.full(1000, word) for word in key[:, 7]), *counts)
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 64, 250), (3, 300_001), (500_003,), (500_000, 1)])
def test_rate_and_mean(shape: tuple[int, ...], rate: float) -> None:
    y = np.asarray(dropout(jnp.full(shape, 3.0), rate, jax.random.key(1)), np.float64)
    noise = (rate * (1 - rate) / y.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 4 * noise + 2**-17
    assert abs(y.mean() / 3 - 1) < 4 * noise / (1 - rate)
    assert len(np.unique(y)) == 2


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("distance", [1, 2, 16, 64, 128])
def test_neighbours_know_nothing_of_each_other(axis: int, distance: int) -> None:
    """64 is a quarter of an axis: the numbers of one hash."""
    x = kept((256, 256, 256), 0.5).astype(np.float64) * 2 - 1
    product = (x * np.roll(x, distance, axis)).mean()
    assert abs(product) < 4 * x.size**-0.5


def test_keys_know_nothing_of_each_other() -> None:
    x = [kept((1000, 1000), 0.5, seed).astype(np.float64) * 2 - 1 for seed in range(4)]
    products = [(x[i] * x[j]).mean() for i in range(4) for j in range(i)]
    assert max(map(abs, products)) < 4e-3
    assert (kept((1000,), 0.5) == kept((1000,), 0.5)).all()


def test_of_small_steps_every_one_counts() -> None:
    """All 16 bits decide: a rate of one 2^-16 is not none, and less than half of one is."""
    x = jnp.ones((4096, 4096))
    dropped = float((dropout(x, 2**-16, jax.random.key(0)) == 0).sum())
    assert 256 - 64 < dropped < 256 + 64
    assert dropout(x, 2**-18, jax.random.key(0)) is x
    assert dropout(x, 0.5, None) is x


@pytest.mark.parametrize("letters", [("data", None, None), (None, "tensor", "data"), (None,) * 3])
def test_the_same_on_any_mesh(letters: tuple[str | None, ...]) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "tensor"))
    placed = jax.device_put(jnp.ones((8, 16, 32)), NamedSharding(mesh, PartitionSpec(*letters)))
    y = jax.jit(lambda x, key: dropout(x, 0.3, key))(placed, jax.random.key(3))
    assert ((np.asarray(y) != 0) == kept((8, 16, 32), 0.3, 3)).all()


def test_rows_that_no_axis_splits_send_nothing() -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "tensor"))
    place = NamedSharding(mesh, PartitionSpec("data", "tensor"))
    step = jax.jit(lambda x, key: dropout(x, 0.3, key), out_shardings=place)
    x = jax.device_put(jnp.ones((8, 16, 32)), place)
    text = step.lower(x, jax.random.key(0)).compile().as_text()
    assert not [
        kind for kind in ("all-gather", "all-reduce", "permute", "all-to-all") if kind in text
    ]


def test_gradients_pass_where_values_do() -> None:
    x, key = jnp.linspace(1, 2, 1000).reshape(10, 100), jax.random.key(5)
    gradient = jax.grad(lambda x: dropout(x, 0.25, key).sum())(x)
    np.testing.assert_allclose(gradient, (dropout(x, 0.25, key) != 0) / 0.75, rtol=1e-6)
    assert dropout(x.astype(jnp.bfloat16), 0.25, key).dtype == jnp.bfloat16
