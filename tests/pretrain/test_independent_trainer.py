"""The whole training step against one written here: its own targets, loss, clipping, rates, AdamW.

The independent trainer keeps weights and moments in float64 and shares with a run only its initial
parameters, its rows and the model's forward: it differentiates a mean over the global batch, where
the run adds up microbatches. Losses agree to float32's last digits; parameters to 2e-5, which is
what an element-wise gradient that is nearly 0 may make of Adam's division.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso import configs
from gesso.models import build
from gesso.models.adapters.config import AdapterConfig
from gesso.models.trees import flat, nest
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.checkpoints.checkpoints import load_params
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig, StageConfig, StartConfig
from gesso.pretrain.experiment import Experiment, override
from gesso.pretrain.initial import fresh_state, warm_state
from gesso.pretrain.open import open_run, store_of
from gesso.pretrain.session import run
from gesso.pretrain.setup import Setup, set_up
from gesso.pretrain.start import find_warm_start
from gesso.records.metrics import read_metrics

BATCH, STEPS, CLIP = 16, 6, 0.5
TINY = {
    "data.store": "embedded:bytes:0.3",
    "length": 32,
    "batch": BATCH,
    "microbatches": 4,
    "steps": STEPS,
    "seed": 5,
    "model.layers": 2,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 32,
    "mesh": MeshConfig(data=2, fsdp=2, sequence=2),
    "optimizer.learning_rate": 3e-3,
    "optimizer.clip_norm": CLIP,
    "optimizer.schedule.warmup_steps": 2,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 0,
    "evaluation.sample_every_steps": 0,
}
Weights = dict[str, np.ndarray]


def as_float64(tree: Mapping[str, object]) -> Weights:
    return {name: np.asarray(each, np.float64) for name, each in flat(tree).items()}


def batch_of(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Next tokens are targets where they belong to the same document."""
    tokens, segments = rows["tokens"].astype(np.int32), rows["segments"]
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return {
        "tokens": tokens[:, :-1],
        "segments": segments[:, :-1],
        "positions": rows["positions"][:, :-1],
        "targets": tokens[:, 1:],
        "weights": same.astype(np.float32),
    }


def gradients_of(apply: Callable, whole: Callable) -> Callable:
    """(weights, batch) -> (loss, gradients); whole: from the weights to all the model's."""

    def loss(weights, batch):
        inputs = {name: batch[name] for name in ("tokens", "segments", "positions")}
        logits = apply(whole(weights), inputs)["logits"].astype(jnp.float32)
        log_shares = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_shares, batch["targets"][..., None], -1)[..., 0]
        return -(chosen * batch["weights"]).sum() / batch["weights"].sum()

    return jax.jit(jax.value_and_grad(loss))


class Adam:
    """AdamW as its paper has it (https://arxiv.org/abs/1711.05101), in float64.

    Each element counts its own updates, so that layers may join later.
    """

    def __init__(self, config: OptimizerConfig, weights: Weights, decays: Callable[[str], bool]):
        self.config, self.decays = config, decays
        self.first = {name: np.zeros_like(each) for name, each in weights.items()}
        self.second = {name: np.zeros_like(each) for name, each in weights.items()}
        self.count = {name: np.zeros_like(each) for name, each in weights.items()}

    def update(self, weights: Weights, gradients: Weights, rates: Weights) -> float:
        """Move the weights whose rate is not 0; returns the norm before clipping."""
        c = self.config
        moving = {
            name: np.broadcast_to(rates[name] > 0, each.shape) for name, each in weights.items()
        }
        gradients = {name: np.where(moving[name], each, 0) for name, each in gradients.items()}
        norm = np.sqrt(sum((each**2).sum() for each in gradients.values()))
        for name, each in gradients.items():
            g, on = each * min(1, CLIP / norm), moving[name]
            self.count[name] += on
            count = np.maximum(self.count[name], 1)
            first = c.b1 * self.first[name] + (1 - c.b1) * g
            second = c.b2 * self.second[name] + (1 - c.b2) * g**2
            self.first[name] = np.where(on, first, self.first[name])
            self.second[name] = np.where(on, second, self.second[name])
            step = self.first[name] / (1 - c.b1**count)
            step /= np.sqrt(self.second[name] / (1 - c.b2**count)) + c.epsilon
            if self.decays(name):
                step += c.weight_decay * weights[name]
            weights[name] = weights[name] - rates[name] * step
        return float(norm)


def is_matrix(name: str) -> bool:
    return not name.endswith("bias") and "norm" not in name


def cosine(step: int, *, peak: float, warmup: int, steps: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))))


def train(
    s: Setup,
    weights: Weights,
    whole: Callable,
    rates: Callable[[int, str], float | np.ndarray],
    decays: Callable[[str], bool] = is_matrix,
    apply: Callable | None = None,
) -> tuple[list[float], list[float]]:
    """Train `weights` in place. rates: (step, name) -> rate, 0 where frozen. (losses, norms)."""
    adam = Adam(s.experiment.optimizer, weights, decays)
    gradient = gradients_of(apply or s.model.apply, whole)
    losses, norms = [], []
    for step in range(s.experiment.steps):
        batch = batch_of(s.order.rows(BATCH * step, BATCH))
        at = {name: jnp.asarray(each, jnp.float32) for name, each in weights.items()}
        loss, found = gradient(at, batch)
        losses.append(float(loss))
        each = {name: np.asarray(rates(step, name)) for name in weights}
        norms.append(adam.update(weights, as_float64(nest(found)), each))
    return losses, norms


def assert_equal(folder, weights: Weights, params, losses: list[float], norms: list[float]) -> None:
    records = [each for each in read_metrics(folder) if each["kind"] == "train"]
    np.testing.assert_allclose([each["loss"] for each in records], losses, rtol=2e-5)
    np.testing.assert_allclose([each["grad_norm"] for each in records], norms, rtol=2e-4)
    reached = as_float64(params)
    assert reached.keys() == weights.keys()
    for name, each in weights.items():
        np.testing.assert_allclose(reached[name], each, atol=2e-5, err_msg=name)


def experiment(name: str, **changes) -> Experiment:
    return override(configs.experiment(name), TINY | changes)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of debug-gpt-neo, what the independent trainer made of it, and its folder."""
    folder = tmp_path_factory.mktemp("independent") / "run"
    e = experiment("debug-gpt-neo")
    assert run(e, folder=folder).step == STEPS
    s = set_up(e, store=store_of(e))
    weights = as_float64(fresh_state(s)["params"])
    peak = e.optimizer.learning_rate

    def rates(step: int, name: str) -> float:
        return cosine(step, peak=peak, warmup=2, steps=STEPS)

    return folder, weights, train(s, weights, nest, rates)


def test_microbatches_clipping_schedule_and_adamw(trained):
    folder, weights, (losses, norms) = trained
    assert min(norms) > CLIP, "every update is clipped, or clipping is not tested"
    assert_equal(folder, weights, open_run(folder).params, losses, norms)


def test_stages_layer_decay_and_layers_that_join_later(tmp_path):
    """Three updates of the last layer and norm alone, then all, deeper layers faster."""
    layers, decay = 2, 0.5
    e = experiment("debug-gpt-neo", microbatches=2)
    schedule = ScheduleConfig(kind="linear", warmup_steps=1, final=0.1)
    optimizer = dataclasses.replace(
        e.optimizer, learning_rate=2e-3, schedule=schedule, layer_decay=decay
    )
    stage = StageConfig(
        until=3, trainable=("blocks/*", "norm*"), first_layer=-1, learning_rate=1e-3
    )
    e = dataclasses.replace(e, optimizer=optimizer, stages=(stage,))
    assert run(e, folder=tmp_path / "run").step == STEPS
    s = set_up(e, store=store_of(e), phase=0)
    state = fresh_state(s)
    weights = as_float64(s.parts.whole(state["params"], state["frozen"]))

    def rates(step: int, name: str) -> float | np.ndarray:
        first = step < 3
        peak = 1e-3 if first else 2e-3 * (1 if step == 3 else 1 - 0.9 * (step - 4) / 2)
        if name.startswith("blocks/"):
            each = np.array([decay ** (layers - layer) for layer in range(layers)])
            if first:
                each[:-1] = 0
            return peak * each.reshape(-1, *[1] * (weights[name].ndim - 1))
        if name.startswith("norm"):
            return peak
        return 0.0 if first else peak * decay ** (layers + 1)

    losses, norms = train(s, weights, nest, rates)
    assert_equal(tmp_path / "run", weights, open_run(tmp_path / "run").params, losses, norms)


def test_lora_is_w_plus_a_b(trained, tmp_path):
    base_folder, _, _ = trained
    rank, alpha = 4, 8.0
    e = dataclasses.replace(
        experiment("debug-gpt-neo", steps=5),
        start=StartConfig(source=str(base_folder)),
        adapter=AdapterConfig(kind="lora", rank=rank, alpha=alpha),
    )
    folder = tmp_path / "lora"
    assert run(e, folder=folder).step == 5
    s = set_up(e, store=store_of(e))
    weights = as_float64(warm_state(s, find_warm_start(s))["params"])
    base = open_run(base_folder)

    def whole(factors):
        merged = {name: jnp.asarray(each) for name, each in flat(base.params).items()}
        for each in ("q", "v"):
            name = f"blocks/attention/{each}"
            a, b = factors[f"adapter/{name}/a"], factors[f"adapter/{name}/b"]
            merged[name] += alpha / rank * jnp.einsum("zdr,zrnh->zdnh", a, b)
        return nest(merged)

    def rates(step: int, name: str) -> float:
        return cosine(step, peak=e.optimizer.learning_rate, warmup=2, steps=5)

    model = build(base.experiment.model)
    losses, norms = train(s, weights, whole, rates, lambda name: True, model.apply)
    trained_factors, _ = load_params(folder / "checkpoints")
    assert_equal(folder, weights, trained_factors, losses, norms)
