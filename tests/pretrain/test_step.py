"""The one step: sharded = single device, accumulated = whole, and a bad update changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso import configs
from gesso.models import build
from gesso.objectives.kinds import build as build_objective
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.config import OptimizerConfig
from gesso.pretrain.experiment import override
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.state import abstract_state, init_state
from gesso.pretrain.step import StepSettings, compile_step, make_train_step

TINY = {
    "model.layers": 2,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 32,
    "length": 32,
    "model.heads": 4,
}
MESHES = {
    "single": (MeshConfig(data=1), "replicated"),
    "replicated": (MeshConfig(replica=2, data=4), "replicated"),
    "fsdp": (MeshConfig(data=2, fsdp=4), "fsdp"),
    "tensor": (MeshConfig(data=4, tensor=2), "tensor"),
    "fsdp_tensor": (MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor"),
    "sequence": (MeshConfig(data=2, fsdp=2, sequence=2), "fsdp"),
}
FAMILIES = ("debug-gpt-neo", "debug-gpt-j", "debug-gpt2", "debug-gpt-neox")


def random_batch(seed: int, *, rows: int = 16, length: int = 32) -> dict[str, np.ndarray]:
    """Packed rows of very unequal weight: documents of random lengths, then padding."""
    random = np.random.default_rng(seed)
    width = length + 1
    segments = np.zeros((rows, width), np.int32)
    positions = np.zeros((rows, width), np.int32)
    for row in range(rows):
        at = 0
        for number in range(1, 9):
            size = int(random.integers(1, 15))
            end = min(at + size, width - row % 5 * 4)
            segments[row, at:end] = number
            positions[row, at:end] = np.arange(max(end - at, 0))
            at = end
    made = build_objective(configs.experiment("debug-gpt-neo").objective).host_batch(
        {
            "tokens": random.integers(0, 256, (rows, width)).astype(np.int32),
            "segments": segments,
            "positions": positions,
            "component": (np.arange(rows) % 3).astype(np.int32),
        }
    )
    return made | {"row_crc": np.arange(rows, dtype=np.uint32)}


class Trained:
    """A tiny run of one experiment on one mesh: `updates` steps, everything brought home."""

    def __init__(self, name, mesh_name, *, updates=3, microbatches=1, batches=None, **changes):
        made = override(configs.experiment(name), {**TINY, **changes})
        mesh_config, layout_name = MESHES[mesh_name]
        count = 1 if mesh_name == "single" else 8
        mesh = make_mesh(mesh_config, devices=jax.devices()[:count])
        layout = LAYOUTS[layout_name]
        model = build(made.model)
        objective = build_objective(made.objective)
        optimizer = make_optimizer(made.optimizer, model.letters, steps=100)
        settings = StepSettings(
            microbatches=microbatches,
            clip_norm=1.0,
            components=3,
            dropout=made.model.residual_dropout > 0,
        )
        step = make_train_step(model, objective, optimizer, settings)
        state = init_state(model, optimizer, seed=0, mesh=mesh, layout=layout)
        self.born = jax.device_get(state)
        shapes = abstract_state(model, optimizer, mesh=mesh, layout=layout)
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, shapes
            )
        )
        batches = batches or [random_batch(seed) for seed in range(updates)]
        placed = [
            {k: jax.device_put(v, batch_sharding(mesh, "BL"[: v.ndim])) for k, v in batch.items()}
            for batch in batches
        ]
        self.compiled = compile_step(step, state, placed[0], mesh=mesh, layout=layout)
        self.metrics = []
        for batch in placed:
            with jax.transfer_guard("disallow"):
                state, metrics = self.compiled(state, batch)
            self.metrics.append(jax.device_get(metrics))
        self.state = jax.device_get(state)
        self.parts = {
            jax.tree_util.keystr(path): leaf.addressable_shards[0].data.size / leaf.size
            for path, leaf in jax.tree.leaves_with_path(state)
        }

    @property
    def losses(self):
        return np.array([m["loss"] for m in self.metrics])


def worst(a, b) -> float:
    return max(
        float(np.abs(np.asarray(x, np.float64) - y).max(initial=0))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def single():
    with jax.default_matmul_precision("highest"):
        return {name: Trained(name, "single") for name in FAMILIES}


@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "single"])
@pytest.mark.parametrize("name", FAMILIES[:2])
def test_sharded_is_single_device(single, name, mesh):
    """I1: the same bits at birth; the same losses, gradients and parameters within float32."""
    with jax.default_matmul_precision("highest"):
        sharded = Trained(name, mesh)
    one = single[name]
    assert worst(sharded.born, one.born) == 0
    # Sums in another order: a few float32 roundings of losses near 5.6.
    np.testing.assert_allclose(sharded.losses, one.losses, rtol=0, atol=3e-6)
    norms = [np.array([m["grad_norm"] for m in run.metrics]) for run in (sharded, one)]
    np.testing.assert_allclose(*norms, rtol=2e-5)
    # Where a gradient is nearly zero Adam divides rounding by rounding: one learning rate of room
    # would hide errors, so the bound is on the mean over each array.
    for path, leaf in jax.tree.leaves_with_path(sharded.state["params"]):
        other = one.state["params"]
        for key in path:
            other = other[key.key]
        assert np.abs(leaf - other).mean() < 2e-6, jax.tree_util.keystr(path)


def test_twenty_steps_stay_on_the_trajectory():
    """I1 over 20 updates, on the mesh that splits everything."""
    batches = [random_batch(seed % 4) for seed in range(20)]
    with jax.default_matmul_precision("highest"):
        one = Trained("debug-gpt-neo", "single", batches=batches)
        split = Trained("debug-gpt-neo", "fsdp_tensor", batches=batches)
    assert one.losses[-1] < one.losses[0] - 0.05
    np.testing.assert_allclose(split.losses, one.losses, rtol=0, atol=5e-5)


@pytest.mark.parametrize("mesh", ["fsdp", "tensor", "fsdp_tensor"])
def test_state_is_born_split(mesh):
    parts = Trained("debug-gpt-neo", mesh, updates=1).parts
    share = {"fsdp": 1 / 4, "tensor": 1 / 2, "fsdp_tensor": 1 / 4}[mesh]
    matrices = [part for path, part in parts.items() if "'up'" in path]
    assert len(matrices) == 3  # the parameter and AdamW's two moments
    assert matrices == [share] * 3


@pytest.mark.parametrize(
    "name", ["adafactor", pytest.param("lion", marks=pytest.mark.slow), "muon"]
)
def test_every_optimizer_trains_split_as_on_one_device(name):
    settings = {"optimizer": OptimizerConfig(name=name, learning_rate=1e-3)}
    with jax.default_matmul_precision("highest"):
        one = Trained("debug-gpt-neo", "single", **settings)
        split = Trained("debug-gpt-neo", "fsdp_tensor", **settings)
    np.testing.assert_allclose(split.losses, one.losses, rtol=0, atol=2e-5)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_accumulated_is_whole(single, microbatches):
    """I3: with rows of very unequal weight, where a mean of means would be off by 0.01 and more."""
    with jax.default_matmul_precision("highest"):
        split = Trained("debug-gpt-neo", "single", microbatches=microbatches)
    one = single["debug-gpt-neo"]
    # Six float32 roundings (4.8e-7 each) of losses near 5.6, after up to two updates.
    np.testing.assert_allclose(split.losses, one.losses, rtol=0, atol=3e-6)
    for key in ("component_loss", "component_weight", "tokens", "loss_tokens"):
        for a, b in zip(split.metrics, one.metrics, strict=True):
            np.testing.assert_allclose(a[key], b[key], rtol=1e-5)
    batch = random_batch(0)
    weight = batch["lm_weight"].reshape(-1, 4, 32).sum(axis=(0, 2))
    assert weight.std() / weight.mean() > 0.02, "the microbatches must differ for this to show"


def test_accumulated_is_whole_on_a_mesh(single):
    with jax.default_matmul_precision("highest"):
        split = Trained("debug-gpt-neo", "fsdp", microbatches=2)
    np.testing.assert_allclose(split.losses, single["debug-gpt-neo"].losses, rtol=0, atol=3e-6)


def test_z_loss_is_in_the_loss():
    with_z = Trained("debug-gpt-neo", "single", updates=1, **{"objective.z_loss": 0.1})
    (m,) = with_z.metrics
    assert m["loss"] == pytest.approx(m["lm"] + 0.1 * m["z"], rel=1e-6)
    assert m["z"] > 1


def test_components_sum_to_the_whole(single):
    for m in single["debug-gpt-neo"].metrics:
        assert m["component_weight"].sum() == m["loss_tokens"]
        mean = m["component_loss"].sum() / m["component_weight"].sum()
        assert mean == pytest.approx(m["loss"], rel=1e-6)


def test_an_update_that_is_no_number_changes_nothing():
    """After [good, bad, good] the state is bit for bit that after [good, good], but for step."""
    good, bad = random_batch(0), random_batch(1)
    bad["lm_weight"] = np.full_like(bad["lm_weight"], np.nan)
    with_bad = Trained("debug-gpt-neo", "fsdp", batches=[good, bad, random_batch(2)])
    without = Trained("debug-gpt-neo", "fsdp", batches=[good, random_batch(2)])
    assert [int(m["skipped"]) for m in with_bad.metrics] == [0, 1, 0]
    assert worst(with_bad.state["params"], without.state["params"]) == 0
    assert worst(with_bad.state["opt_state"], without.state["opt_state"]) == 0
    assert with_bad.state["step"] == 3


def test_dropout_differs_by_step_and_repeats_by_seed():
    batches = [random_batch(0)] * 2
    settings = {"model.residual_dropout": 0.5, "optimizer.learning_rate": 1e-12}
    a = Trained("debug-gpt-neo", "single", batches=batches, **settings)
    b = Trained("debug-gpt-neo", "single", batches=batches, **settings)
    assert np.array_equal(a.losses, b.losses)
    assert abs(a.losses[0] - a.losses[1]) > 1e-4
    sharded = Trained("debug-gpt-neo", "fsdp_tensor", batches=batches, **settings)
    np.testing.assert_allclose(sharded.losses, a.losses, atol=1e-5)


def test_a_fully_padded_batch_is_finite():
    empty = random_batch(0)
    empty["segments"] = np.zeros_like(empty["segments"])
    empty["lm_weight"] = np.zeros_like(empty["lm_weight"])
    (m,) = Trained("debug-gpt-neo", "single", batches=[empty]).metrics
    assert m["loss"] == 0
    assert m["grad_norm"] == 0
    assert m["skipped"] == 0


def test_bfloat16_compute_keeps_float32_parameters():
    made = override(configs.experiment("debug-gpt-j"), TINY)
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])
    model, objective = build(made.model), build_objective(made.objective)
    optimizer = make_optimizer(made.optimizer, model.letters, steps=10)
    state = init_state(model, optimizer, seed=0, mesh=mesh, layout=LAYOUTS["replicated"])
    batch = {k: jnp.asarray(v) for k, v in random_batch(0).items()}
    losses = {}
    for compute in ("float32", "bfloat16"):
        settings = StepSettings(compute=compute, components=3)
        step = jax.jit(make_train_step(model, objective, optimizer, settings))
        after, metrics = step(state, batch)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after["params"]))
        losses[compute] = float(metrics["loss"])
    # bfloat16 keeps 8 bits: about 0.4 % of each activation.
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=5e-3)
    assert losses["bfloat16"] != losses["float32"]
