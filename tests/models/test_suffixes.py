"""Every array named with a shape suffix has that shape, in one run of each family."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from families import FAMILIES
from suffixes import checked

from gesso import models, objectives
from gesso.models import build
from gesso.objectives import CausalLM, CausalLMConfig

FOLDERS = [Path(each.__file__).parent for each in (models, objectives)]


@pytest.mark.parametrize("family", FAMILIES)
def test_suffixes_are_kept(family):
    model = build(FAMILIES[family])
    params = jax.eval_shape(model.init, jax.random.key(0))
    ones = jnp.ones((2, 24), jnp.int32)
    batch = {"tokens": ones, "targets": ones, "positions": ones, "segments": ones}
    objective = CausalLM(CausalLMConfig(chunk_tokens=8, z_loss=1e-4))

    def loss(params):
        losses = objective(model.merge(params), batch, jax.random.key(1))
        return sum(each.sum() for each in losses.values())

    cache = jax.eval_shape(lambda: model.init_cache(2, 32))
    with checked(*FOLDERS):
        jax.eval_shape(jax.grad(loss), params)
        jax.eval_shape(lambda p: model.apply(p, batch, hidden=True), params)
        jax.eval_shape(model.decode, params, cache, {"tokens": ones, "positions": ones})


def test_a_wrong_suffix_is_found():
    folder = Path(__file__).parent

    def wrong_dims():
        x_BL = jnp.ones(3)
        return x_BL.sum()

    def wrong_size():
        x_BL, y_BD = jnp.ones((3, 4)), jnp.ones((2, 4))
        return x_BL.sum() + y_BD.sum()

    for each, message in ((wrong_dims, "x_BL has shape"), (wrong_size, "but B is 3")):
        with pytest.raises(AssertionError, match=message), checked(folder):
            each()
    with pytest.raises(AssertionError, match="no suffixed array"), checked("/nowhere"):
        wrong_dims()
