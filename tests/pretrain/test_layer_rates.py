"""Rates by depth, and moments that begin later: each parameter moves as it would alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gesso import configs
from gesso.models import build
from gesso.models.trees import flat, nest
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.optimizer.layer_rates import layer_scales
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.optimizer.schedule import make_schedule

LETTERS = {"embed": "VD", "blocks/q": "ZDD", "norm/scale": "D"}
SHAPES = {"embed": (6, 4), "blocks/q": (3, 4, 4), "norm/scale": (4,)}


def arrays(seed, shapes=SHAPES) -> Any:
    random = np.random.default_rng(seed)
    return nest(
        {name: jnp.asarray(random.normal(size=s), jnp.float32) for name, s in shapes.items()}
    )


def test_every_layer_is_slower_than_the_one_above_in_every_family():
    """ULMFiT's 1 / 2.6: behind the layers 1, then a factor per layer, the embeddings last."""
    d = 1 / 2.6
    for name in ("debug-gpt-neo", "debug-bert", "debug-elmo", "debug-t5"):
        model = build(configs.experiment(name).model)
        abstract = flat(jax.eval_shape(model.init, jax.random.key(0)))
        shapes = {each: x.shape for each, x in abstract.items()}
        scales: Any = flat(layer_scales(d, model.letters, shapes))
        assert scales.keys() == shapes.keys()
        stacks = [n for n in shapes if "blocks/" in n or "layers/" in n]
        depth = shapes[stacks[0]][0]
        for each in stacks:
            np.testing.assert_allclose(scales[each], [d ** (depth - k) for k in range(depth)])
        bottom = {n for n, s in scales.items() if np.ndim(s) == 0 and s != 1}
        assert bottom, name
        assert all(scales[n] == pytest.approx(d ** (depth + 1)) for n in bottom)
        assert not {n for n in bottom if n.startswith(("norm", "head", "mlm", "nsp", "pooler"))}


def test_updates_of_adam_are_the_rates_of_their_layers():
    """With one gradient for all, Adam's first update is the learning rate, so layers differ by
    their factors alone; the two uppermost alone have the rates they have among three. (2e-5: what
    float32 leaves of 1 - 0.999.)"""
    config = OptimizerConfig(learning_rate=0.1, layer_decay=0.5, epsilon=1e-20)
    optimizer: Any = make_optimizer(config, nest(LETTERS), steps=5, whole=SHAPES)
    params = arrays(0)
    ones = jax.tree.map(jnp.ones_like, params)
    updates: Any = flat(optimizer.update(ones, optimizer.init(params), params)[0])
    np.testing.assert_allclose(updates["norm/scale"], -0.1, rtol=2e-5)
    rates = -0.1 * np.array([0.125, 0.25, 0.5])[:, None, None] * np.ones((3, 4, 4))
    np.testing.assert_allclose(updates["blocks/q"], rates, rtol=2e-5)
    np.testing.assert_allclose(updates["embed"], -0.1 * 0.0625, rtol=2e-5)
    upper = nest({"blocks/q": "ZDD"})
    optimizer: Any = make_optimizer(config, upper, steps=5, whole=SHAPES)
    params = nest({"blocks/q": jnp.ones((2, 4, 4))})
    updates = optimizer.update(params, optimizer.init(params), params)[0]
    np.testing.assert_allclose(updates["blocks"]["q"], rates[1:], rtol=2e-5)


def test_counts_of_their_own_are_optax_where_all_begin_together():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.1)
    one: Any = make_optimizer(config, nest(LETTERS), steps=5)
    each: Any = make_optimizer(config, nest(LETTERS), steps=5, counts="each")
    params: dict[str, Any] = {"one": arrays(0), "each": arrays(0)}
    states: dict[str, Any] = {"one": one.init(params["one"]), "each": each.init(params["each"])}
    for seed in range(4):
        for name, optimizer in (("one", one), ("each", each)):
            updates, states[name] = optimizer.update(arrays(seed + 1), states[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
    for a, b in zip(*map(jax.tree.leaves, params.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_layer_that_begins_later_moves_as_if_alone():
    """Five updates after the upper layer, its own first update is that of a fresh Adam: with one
    count for both it would be 2.3 times as long."""
    config = OptimizerConfig(learning_rate=1.0, epsilon=1e-20)
    letters = {"blocks": {"q": "ZD"}}
    optimizer: Any = make_optimizer(config, letters, steps=9, counts="each")
    state = optimizer.init({"blocks": {"q": jnp.zeros((2, 3))}})
    adam = state[0]._replace(count={"blocks": {"q": jnp.array([0, 5])}})
    gradient = {"blocks": {"q": jnp.full((2, 3), 0.3)}}
    updates, after = optimizer.update(gradient, (adam, *state[1:]), gradient)
    np.testing.assert_allclose(updates["blocks"]["q"][0], -1.0, rtol=2e-5)
    late = (0.1 / (1 - 0.9**6)) / np.sqrt(0.001 / (1 - 0.999**6))
    np.testing.assert_allclose(updates["blocks"]["q"][1], -late, rtol=2e-5)
    assert after[0].count["blocks"]["q"].tolist() == [1, 6]


def test_the_slanted_triangle_in_closed_form():
    """cut = T / 10, ratio 32 (equation 3 of https://arxiv.org/abs/1801.06146)."""
    total, ratio = 200, 32
    schedule = make_schedule(ScheduleConfig(kind="stlr", final=1 / ratio), steps=total)
    cut, t = total // 10, np.arange(total)
    p = np.where(t < cut, t / cut, 1 - (t - cut) / (cut * (10 - 1)))
    np.testing.assert_allclose(schedule(jnp.asarray(t)), (1 + p * (ratio - 1)) / ratio, atol=1e-6)
