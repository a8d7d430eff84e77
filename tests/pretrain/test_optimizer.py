"""Optimizers and schedules against the reference rules, and every pattern accounted for."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.optimizer.optimizer import PatternError, make_optimizer
from gesso.pretrain.optimizer.schedule import make_schedule

PACK = Path(__file__).parents[3] / "shared/packs/optim/open"
LETTERS = {
    "embed": "VD",
    "blocks": {"attention": {"q": "ZDNH", "out": "ZNHD", "q_bias": "ZNH"}, "up": "ZDF"},
    "norm": {"scale": "D"},
}
SIZES = {"V": 16, "D": 8, "Z": 3, "N": 2, "H": 4, "F": 12}
NAMES = ("adamw", "adamw_bert", "lion", "adafactor", "muon")


def parameters(seed: int = 0):
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    return jax.tree.map(
        lambda each: jax.random.normal(next(keys), [SIZES[x] for x in each]), LETTERS
    )


@pytest.fixture(scope="module")
def reference():
    if not PACK.exists():
        pytest.skip("the reference pack of optimizers lies beside the checkout, in ../shared")
    return np.load(PACK / "reference.npz")


@pytest.mark.parametrize(
    ("run", "config"),
    [
        ("adamw", OptimizerConfig(learning_rate=1e-2, weight_decay=0.01)),
        (
            "bert_adamw",
            OptimizerConfig(
                name="adamw_bert", epsilon=1e-6, weight_decay=0.01, no_decay=("b", "ln")
            ),
        ),
        (
            "adamw_gpt3",
            OptimizerConfig(
                b2=0.95, weight_decay=0.1, no_decay=("b", "ln"), clip_norm=1.0, learning_rate=1.0
            ),
        ),
    ],
)
def test_adamw_follows_the_reference(reference, run, config):
    names = [key.split("/")[1] for key in reference.files if key.startswith("p0/")]
    params = {name: jnp.asarray(reference[f"p0/{name}"]) for name in names}
    # The pack has no rates for the run at a constant 1e-3.
    rates = reference[f"{run}/lr"] if run != "bert_adamw" else np.full(25, 1e-3)
    letters = {name: "VDFH"[: params[name].ndim] for name in names}
    optimizer = make_optimizer(
        OptimizerConfig(**{**vars(config), "learning_rate": 1.0, "clip_norm": 0.0}),
        letters,
        steps=25,
    )
    state, kept = optimizer.init(params), []
    # Run in float64's stead in float32, with the pack's learning rate applied update by update.
    for step in range(25):
        grads = {name: jnp.asarray(reference[f"g/{name}"][step]) for name in names}
        if config.clip_norm:
            norm = optax.tree.norm(grads)
            grads = jax.tree.map(
                lambda g, n=norm: g * jnp.minimum(1.0, config.clip_norm / n), grads
            )
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(lambda p, u, s=step: p + u * rates[s], params, updates)
        if step + 1 in (1, 2, 3, 5, 10, 25):
            kept.append(params)
    for name in names:
        got = np.stack([np.asarray(each[name]) for each in kept])
        exact, single = reference[f"{run}/{name}_f64"], reference[f"{run}/{name}_f32"]
        # The pack's own tolerance: 2e-6 and thrice float32's distance from float64.
        assert np.abs(got - exact).max() <= 2e-6 + 3 * np.abs(single - exact).max(), name


def test_cosine_counts_as_megatron_does(reference):
    about = json.loads((PACK / "manifest.json").read_text())["schedules"]
    schedule = make_schedule(
        ScheduleConfig(kind="cosine", warmup_steps=about["warmup"], final=0.1),
        steps=about["total"],
    )
    got = about["peak"] * np.asarray([schedule(t) for t in range(about["total"])])
    # Megatron counts updates from 1: its update number i takes our t = i - 1 while warming up.
    expected = reference["schedule/megatron_neox_cosine"][: about["total"]]
    warmup = about["warmup"]
    np.testing.assert_allclose(got[:warmup], expected[:warmup], rtol=1e-6)
    assert np.abs(got[warmup:] - expected[warmup:]).max() < 0.02 * about["peak"]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "wsd", "inverse_sqrt", "stlr"])
def test_schedules_warm_up_stay_below_the_peak_and_end_where_told(kind):
    decay = {"decay_steps": 20} if kind == "wsd" else {}
    config = ScheduleConfig(kind=kind, warmup_steps=10, final=0.1, **decay)
    schedule = make_schedule(config, steps=100)
    values = np.asarray([schedule(t) for t in range(120)])
    assert values.max() == pytest.approx(1.0, abs=1e-6)
    assert np.all(np.diff(values[:10]) > 0)
    if kind == "wsd":
        assert np.all(values[10:80] == 1.0)
    if kind == "inverse_sqrt":
        assert values[39] == pytest.approx(0.5, abs=1e-6)
    elif kind != "constant":
        assert values[100:] == pytest.approx(0.1, abs=1e-6)
        assert np.all(np.diff(values[10:101]) <= 1e-7)


def test_the_held_schedule_is_one_over_the_square_root_of_the_update():
    """T5's: 1 / sqrt(max(n, 10^4)) with a peak of 0.01."""
    schedule = make_schedule(
        ScheduleConfig(kind="inverse_sqrt_held", warmup_steps=10_000), steps=50_000
    )
    n = np.array([1, 2, 9_999, 10_000, 10_001, 40_000])
    got = 0.01 * np.asarray([schedule(t - 1) for t in n])
    np.testing.assert_allclose(got, 1 / np.sqrt(np.maximum(n, 10_000)), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_lowers_a_quadratic(name):
    params = parameters()
    config = OptimizerConfig(name=name, learning_rate=0.05, weight_decay=0.01)
    optimizer = make_optimizer(config, LETTERS, steps=60)
    state = optimizer.init(params)

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    first = loss(params)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.5 * first


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lion"])
def test_stacked_layers_train_as_if_they_were_apart(name):
    config = OptimizerConfig(name=name, weight_decay=0.01)
    params, grads = parameters(), parameters(1)
    together = make_optimizer(config, LETTERS, steps=10)
    updates, _ = together.update(grads, together.init(params), params)
    for layer in range(SIZES["Z"]):
        letters = {"up": "DF"}
        alone = make_optimizer(config, letters, steps=10)
        p, g = ({"up": tree["blocks"]["up"][layer]} for tree in (params, grads))
        expected, _ = alone.update(g, alone.init(p), p)
        np.testing.assert_allclose(
            updates["blocks"]["up"][layer], expected["up"], rtol=1e-6, atol=1e-9
        )


def test_decay_reaches_what_the_patterns_say():
    params = parameters()
    config = OptimizerConfig(weight_decay=0.1, no_decay=("*norm*", "*bias"), learning_rate=1.0)
    optimizer = make_optimizer(config, LETTERS, steps=10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["embed"], -0.1 * params["embed"], rtol=1e-6)
    assert not np.any(updates["norm"]["scale"])
    assert not np.any(updates["blocks"]["attention"]["q_bias"])


def test_multipliers_scale_the_rate_first_match_wins():
    params, grads = parameters(), parameters(1)
    plain = make_optimizer(OptimizerConfig(), LETTERS, steps=10)
    scaled = make_optimizer(
        OptimizerConfig(multipliers={"blocks/*": 0.5, "*": 2.0}), LETTERS, steps=10
    )
    a, _ = plain.update(grads, plain.init(params), params)
    b, _ = scaled.update(grads, scaled.init(params), params)
    np.testing.assert_allclose(b["blocks"]["up"], 0.5 * a["blocks"]["up"], rtol=1e-6)
    np.testing.assert_allclose(b["embed"], 2.0 * a["embed"], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"no_decay": ("*nrm*",), "weight_decay": 0.1}, "did you mean 'norm/scale'"),
        ({"decay": ("attn/*",), "weight_decay": 0.1}, "matches no parameter"),
        ({"multipliers": {"embed": 1.0}}, "cover no blocks/attention"),
        ({"multipliers": {"embd": 1.0, "*": 1.0}}, "did you mean 'embed'"),
        ({"no_decay": ("*norm*",)}, "no effect"),
    ],
)
def test_patterns_that_cannot_take_effect_are_refused(settings, message):
    with pytest.raises(PatternError, match=message):
        make_optimizer(OptimizerConfig(**settings), LETTERS, steps=10)
