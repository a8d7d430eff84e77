"""I4 on a model: losses and gradients of examples in packed rows equal those of examples alone,
and batches of a store are the same on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from instruction_stores import store_of

from gesso.data.config import OrderConfig
from gesso.data.loader import Loader
from gesso.data.open import order_of
from gesso.models import GPTConfig, build
from gesso.objectives import CausalLM, CausalLMConfig
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.mesh import make_mesh

LENGTH = 256


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("store"))


def alone(rows):
    """Every segment of the rows in a row of its own."""
    made = []
    for row in range(len(rows["tokens"])):
        for segment in range(1, int(rows["segments"][row].max()) + 1):
            here = rows["segments"][row] == segment
            one = {
                name: np.zeros_like(rows[name][row])
                for name in ("tokens", "segments", "positions", "lm_weight")
            }
            for name, leaf in one.items():
                leaf[: here.sum()] = 1 if name == "segments" else rows[name][row][here]
            made.append(one)
    n = len(made)
    whole = {name: np.stack([one[name] for one in made]) for name in made[0]}
    return whole | {"component": np.zeros(n, np.int32), "row": np.arange(n)}


def test_packed_is_unpacked(store):
    rows = order_of(store, OrderConfig(length=LENGTH + 1)).rows(0, 12)
    apart = alone(rows)
    assert len(apart["tokens"]) > 8
    objective = CausalLM(CausalLMConfig())
    model = build(GPTConfig(vocab=257, positions=LENGTH, embed=16, heads=2, layers=1))
    # Larger than at the start of training, so that what is attended to matters.
    params = jax.tree.map(lambda x: 8 * x, model.init(jax.random.key(0)))

    @jax.jit
    def total(params, batch):
        losses = objective(model.merge(params), batch, None)
        return jnp.sum(losses["lm"] * batch["lm_weight"]) / jnp.sum(batch["lm_weight"])

    made = [objective.host_batch(each) for each in (rows, apart)]
    assert made[0]["lm_weight"].sum() == made[1]["lm_weight"].sum() > 0
    (loss, grads), (other, others) = (jax.value_and_grad(total)(params, batch) for batch in made)
    open_rows = made[0] | {"segments": np.ones_like(made[0]["segments"])}
    assert abs(float(total(params, open_rows)) - float(loss)) > 1e-3, "the masks do nothing here"
    # float32 sums in another order
    assert float(loss) == pytest.approx(float(other), rel=1e-6)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6 * max(1.0, float(jnp.abs(two).max())))


def test_a_batch_is_the_same_on_any_mesh(store):
    objective = CausalLM(CausalLMConfig())
    made = []
    for mesh in (MeshConfig(data=8), MeshConfig(data=2, fsdp=2, sequence=2)):
        order = order_of(store, OrderConfig(length=LENGTH + 1))
        with Loader(
            order, objective.host_batch, mesh=make_mesh(mesh), batch=16, start_row=40
        ) as loader:
            batches = [next(loader) for _ in range(3)]
        made.append([(each.rows, jax.device_get(each.arrays)) for each in batches])
    want = objective.host_batch(order_of(store, OrderConfig(length=LENGTH + 1)).rows(40, 48))
    for batches in made:
        assert [rows for rows, _ in batches] == [(40, 56), (56, 72), (72, 88)]
        for name, leaf in want.items():
            joined = np.concatenate([arrays[name] for _, arrays in batches])
            np.testing.assert_array_equal(joined, leaf)
    assert (want["lm_weight"] > 0).any(1).all()
