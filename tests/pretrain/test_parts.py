"""Frozen parameters: no gradient, no moments, the same bits after; whole in every other respect."""

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.models import build
from gesso.models.count import flops_per_token
from gesso.models.gpt.count import attention_flops
from gesso.models.trained_count import trained_flops_per_token
from gesso.models.trees import flat
from gesso.objectives.kinds import build as build_objective
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.planning.program_flops import count_flops
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.experiment import override
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.optimizer.trained import PatternError, join_trees, parts_of
from gesso.pretrain.state import abstract_state, init_state
from gesso.pretrain.step import (
    StepSettings,
    compile_step,
    make_train_step,
    trace_step,
)

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


class Made:
    """The step of a tiny model of which some is frozen; nothing is computed."""

    def __init__(self, mesh_config, layout, *, clip_norm=1.0, rows=8, changes=(), **cut):
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
        self.step = make_train_step(model, objective, optimizer, settings, self.parts)
        self.where = {"mesh": self.mesh, "layout": self.layout}
        self.abstract = abstract_state(model, optimizer, parts=self.parts, **self.where)
        self.optimizer, self.rows = optimizer, rows
        self.batch = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.split(leaf))
            for name, leaf in random_batch(rows=rows).items()
        }

    def split(self, leaf):
        return batch_sharding(self.mesh, "BL"[: leaf.ndim])

    def compiled(self):
        return compile_step(self.step, self.abstract, self.batch, **self.where)

    def flops(self):
        """Of all matrix products, loops multiplied out."""
        return count_flops(trace_step(self.step, self.abstract, self.batch, **self.where).jaxpr)


class Trained(Made):
    """The same, and what some updates do."""

    def __init__(self, *where, updates=2, **options):
        super().__init__(*where, **options)
        state = init_state(self.model, self.optimizer, seed=0, parts=self.parts, **self.where)
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, self.abstract
            )
        )
        self.born = jax.device_get(state)
        step, self.metrics = self.compiled(), []
        for seed in range(updates):
            rows = random_batch(seed=seed, rows=self.rows)
            batch = {name: jax.device_put(leaf, self.split(leaf)) for name, leaf in rows.items()}
            state, metrics = step(state, batch)
            self.metrics.append(jax.device_get(metrics))
        self.state = jax.device_get(state)

    @property
    def whole(self):
        return join_trees(self.state["params"], self.state.get("frozen", {}))


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


def test_split_layers_have_the_gradients_of_whole_ones(cut):
    """After one update AdamW's first moment is a tenth of the gradient: of what is trained, that of
    the model all of which is. The norm is of these alone."""
    with jax.default_matmul_precision("highest"):
        once = Trained(*ONE, updates=1, clip_norm=0.0, **CUT)
        every = Trained(*ONE, updates=1, clip_norm=0.0)
    for name, leaf in flat(once.born["params"]).items():
        other = flat(every.born["params"])[name]
        np.testing.assert_array_equal(leaf, other[-len(leaf) :], err_msg=name)
    assert float(every.metrics[0]["loss"]) == pytest.approx(
        float(once.metrics[0]["loss"]), abs=2e-6
    )
    ours, theirs = flat(once.state["opt_state"][0].mu), flat(every.state["opt_state"][0].mu)
    for name, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[name][-len(leaf) :], atol=1e-7, err_msg=name)
    squares = sum(float(np.square(10 * leaf.astype(np.float64)).sum()) for leaf in ours.values())
    assert float(once.metrics[0]["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-5)


def test_frozen_weights_have_no_gradient_to_compute():
    """Exactly the products of the frozen weights' gradients are gone: 2 FLOPs per weight and token.
    Below the lowest trained layer nothing is differentiated at all."""
    every = Made(*ONE)
    tokens = 8 * 32
    weights = {
        name: int(np.prod(shape))
        for name, shape in shapes_of(every.model).items()
        if len(shape) > 2
    }
    blocks = 2 * tokens * sum(weights.values())
    full = every.flops()
    assert full - Made(*ONE, trainable=("!blocks/*",)).flops() == blocks
    top = Made(*ONE, trainable=("blocks/*", "norm/*"), first_layer=2).flops()
    # Of two layers of three both products of the backward pass, and those inside attention: four of
    # its scores' size. (The head's own is dead code here, which XLA takes out.)
    attention = 2 * 4 * 2 * tokens * 32 * 32
    assert full - top == 2 * blocks * 2 / 3 + attention
    assert top == Made(*ONE, trainable=("blocks/*", "norm/*"), first_layer=2, clip_norm=0.0).flops()


@pytest.mark.parametrize(
    ("cut", "lowest"),
    [
        ({"trainable": ("!blocks/*",)}, 0),
        ({"trainable": ("blocks/*", "norm/*"), "first_layer": 2}, 2),
        ({"trainable": ("blocks/*",), "first_layer": 1}, 1),
        ({"trainable": ("norm/*",)}, 3),
        ({"first_layer": 1}, 0),
    ],
    ids=str,
)
def test_the_formula_counts_what_a_step_executes(cut, lowest):
    """To the unit. Of the program's own: attention takes a square of keys where the formula takes
    what the mask leaves, and the frozen head's gradient is dead code that XLA takes out."""
    every, part = Made(*ONE), Made(*ONE, **cut)
    config, tokens = every.model.config, 8 * 32

    def counted(made):
        trees = (flat(made.abstract["params"]), flat(made.abstract.get("frozen", {})))
        trained, frozen = ({n: x.shape for n, x in tree.items()} for tree in trees)
        return trained_flops_per_token(config, 32, trained=trained, frozen=frozen)

    square = 12 * 32 * 32
    unmasked = sum(square - each for each in attention_flops(config, 32)[:lowest])
    head = 2 * 264 * 32 if "embed" not in flat(part.abstract["params"]) else 0
    saved = counted(every) - counted(part) + unmasked * 2 / 3 - head
    assert every.flops() - part.flops() == tokens * saved
    assert counted(every) == flops_per_token(config, 32)


def test_the_norm_and_clipping_do_not_bring_the_frozen_gradient_back():
    """Of the compiled program, unrolled so that XLA counts every layer: arithmetic and memory are
    the same with clipping, and the optimizer has its two moments for what is trained."""
    changes = {"model.unroll": 3, "model.embed": 64, "model.mlp": 256}
    cut = {"trainable": ("blocks/*", "norm/*"), "first_layer": 2, "changes": changes}
    clipped, free = Made(*ONE, rows=2, **cut), Made(*ONE, rows=2, clip_norm=0.0, **cut)
    with_norm, without = clipped.compiled(), free.compiled()
    trained = sum(x.size for x in jax.tree.leaves(clipped.abstract["params"]))
    every = sum(int(np.prod(shape)) for shape in shapes_of(clipped.model).values())
    assert trained < every / 3
    costs: list = [each.cost_analysis() for each in (with_norm, without)]
    flops = [cost["flops"] for cost in costs]
    # Element-wise work is a few per cent; the gradient of the frozen layers would add 30 %.
    assert flops[0] <= 1.05 * clipped.flops()
    # The norm, the factor and its product: a few operations per trained parameter.
    assert 0 <= flops[0] - flops[1] <= 8 * trained
    memory: list = [each.memory_analysis() for each in (with_norm, without)]
    assert memory[0].temp_size_in_bytes <= 1.02 * memory[1].temp_size_in_bytes
    known = 4 * (every + 2 * trained)
    assert known <= memory[0].argument_size_in_bytes <= known + 10_000


def test_sharded_is_single_device(cut):
    with jax.default_matmul_precision("highest"):
        split = Trained(MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor", **CUT)
    for a, b in zip(split.metrics, cut.metrics, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=6e-6)
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
    shapes = jax.eval_shape(top.begin, jax.eval_shape(model.init, jax.random.key(0)), None)
    assert flat(shapes[0])["blocks/mlp/up"].shape[0] == 1
    assert flat(shapes[1])["blocks/mlp/up"].shape[0] == 2
