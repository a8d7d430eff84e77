"""Frozen parameters: no gradient, no moments, the same bits after; whole in every other respect."""

import jax
import numpy as np
import pytest

import configs
from models import build
from objectives.base import build as build_objective
from partitioning.config import MeshConfig
from partitioning.layouts import LAYOUTS
from partitioning.mesh import make_mesh
from pretrain.experiment import override
from pretrain.optimizer import make_optimizer
from pretrain.parts import PatternError, flat, joined, parts_of
from pretrain.state import abstract_state, init_state
from pretrain.step import StepSettings, batch_sharding, compile_step, make_train_step

TINY = {
    "model.layers": 3,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 32,
    "length": 32,
    "model.heads": 4,
}


def shapes_of(model):
    return {
        name: x.shape for name, x in flat(jax.eval_shape(model.init, jax.random.key(0))).items()
    }


def parts_for(model, **chosen):
    return parts_of(model.letters, shapes_of(model), **chosen)


def random_batch(vocab=256, rows=8, length=32, seed=0):
    random = np.random.default_rng(seed)
    made = build_objective(configs.experiment("debug-gpt-neo").objective).host_batch(
        {
            "tokens": random.integers(0, vocab, (rows, length + 1)).astype(np.int32),
            "segments": np.ones((rows, length + 1), np.int32),
            "positions": np.tile(np.arange(length + 1, dtype=np.int32), (rows, 1)),
            "component": np.zeros(rows, np.int32),
        }
    )
    return made | {"row_crc": np.arange(rows, dtype=np.uint32)}


class Trained:
    """Updates of a tiny model of which some is frozen."""

    def __init__(self, mesh_config, layout, *, updates=2, clip_norm=1.0, rows=8, changes=(), **cut):
        made = override(configs.experiment("debug-gpt-neo"), {**TINY, **dict(changes)})
        count = 1 if layout == "replicated" else 8
        self.mesh = make_mesh(mesh_config, devices=jax.devices()[:count])
        self.layout = LAYOUTS[layout]
        self.model = model = build(made.model)
        self.parts = parts_for(model, **cut)
        optimizer = make_optimizer(
            made.optimizer, self.parts.letters, steps=10, whole=shapes_of(model)
        )
        objective = build_objective(made.objective)
        settings = StepSettings(clip_norm=clip_norm, microbatches=made.microbatches)
        step = make_train_step(model, objective, optimizer, settings, self.parts)
        where = {"mesh": self.mesh, "layout": self.layout}
        state = init_state(model, optimizer, seed=0, parts=self.parts, **where)
        abstract = abstract_state(model, optimizer, parts=self.parts, **where)
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, abstract
            )
        )
        self.born = jax.device_get(state)
        batches = [
            {
                name: jax.device_put(leaf, batch_sharding(self.mesh, "BL"[: leaf.ndim]))
                for name, leaf in random_batch(seed=seed, rows=rows).items()
            }
            for seed in range(updates)
        ]
        self.compiled = compile_step(step, state, batches[0], **where)
        self.metrics = []
        for batch in batches:
            state, metrics = self.compiled(state, batch)
            self.metrics.append(jax.device_get(metrics))
        self.state = jax.device_get(state)

    @property
    def whole(self):
        return joined(self.state["params"], self.state.get("frozen", {}))


ONE = (MeshConfig(data=1), "replicated")
CUT = {"trainable": ("!positions", "!*mlp_norm*"), "first_layer": 1}


@pytest.fixture(scope="module")
def cut():
    with jax.default_matmul_precision("highest"):
        return Trained(*ONE, **CUT)


def test_frozen_leaves_keep_their_bits_and_have_no_moments(cut):
    frozen = flat(cut.state["frozen"])
    assert frozen["positions"].shape == (32, 32)
    assert frozen["blocks/mlp_norm/scale"].shape[0] == 3
    assert frozen["blocks/mlp/up"].shape[0] == 1
    for name, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, flat(cut.born["frozen"])[name])
    trained = flat(cut.state["params"])
    assert trained["blocks/mlp/up"].shape[0] == 2
    assert "positions" not in trained
    kept = sum(x.size for x in jax.tree.leaves(cut.state["opt_state"]) if x.ndim)
    assert kept == 2 * sum(x.size for x in trained.values())
    for name, leaf in trained.items():
        assert np.abs(leaf - flat(cut.born["params"])[name]).max() > 0, name


def test_split_layers_are_the_same_equations(cut):
    """With everything trained, the same losses at birth; its gradients are those of the trained
    part of the whole model's."""
    with jax.default_matmul_precision("highest"):
        every = Trained(*ONE, updates=1)
    np.testing.assert_array_equal(
        flat(every.born["params"])["embed"], flat(cut.born["params"])["embed"]
    )
    assert float(every.metrics[0]["loss"]) == pytest.approx(float(cut.metrics[0]["loss"]), abs=2e-6)
    # AdamW's first moment after one update is a tenth of the gradient, clipped by another norm.
    with jax.default_matmul_precision("highest"):
        once = Trained(*ONE, updates=1, clip_norm=0.0, **CUT)
        free = Trained(*ONE, updates=1, clip_norm=0.0)
    ours, theirs = flat(once.state["opt_state"][0].mu), flat(free.state["opt_state"][0].mu)
    for name, leaf in ours.items():
        other = theirs[name][-leaf.shape[0] :] if name.startswith("blocks") else theirs[name]
        np.testing.assert_allclose(leaf, other, atol=1e-7, err_msg=name)
    squares = sum(float(np.square(10 * leaf.astype(np.float64)).sum()) for leaf in ours.values())
    assert float(once.metrics[0]["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-5)


def test_sharded_is_single_device(cut):
    with jax.default_matmul_precision("highest"):
        split = Trained(MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor", **CUT)
    for a, b in zip(split.metrics, cut.metrics, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=3e-6)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=2e-5)
    for name, leaf in flat(split.whole).items():
        assert np.abs(leaf - flat(cut.whole)[name]).mean() < 2e-6, name
    for name, leaf in flat(split.state["frozen"]).items():
        np.testing.assert_array_equal(leaf, flat(cut.state["frozen"])[name])


def test_patterns_that_cannot_be_meant():
    model = build(override(configs.experiment("debug-gpt-neo"), TINY).model)
    with pytest.raises(PatternError, match="trainable 'blocks/atention/q' matches no parameter"):
        parts_for(model, trainable=("blocks/atention/q",))
    with pytest.raises(PatternError, match="leaves no parameter"):
        parts_for(model, trainable=("embed", "!embed"))
    with pytest.raises(PatternError, match="nothing is trained"):
        parts_for(model, trainable=("blocks/*",), first_layer=3)
    assert parts_for(model).frozen_letters == {}
    top = parts_for(model, first_layer=-1)
    assert (
        top.begin(model.init(jax.random.key(0)), jax.random.key(0))[0]["blocks"]["mlp"]["up"].shape[
            0
        ]
        == 1
    )
