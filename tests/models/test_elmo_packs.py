"""I5 for ELMo: outputs, losses, gradients and trajectories of the published implementations.

Tolerances are the packs' own (their manifests): rounding noise is below 5e-7, and the smallest
reimplementation error measured on them 0.28.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from elmo_pack_reader import ELMoPack, with_bounds

from gesso.models import build

ACTIVATIONS, LOSS, TRAJECTORY, FIXTURE = 2e-5, 2e-5, 1e-3, 1e-5


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def pack():
    return ELMoPack("open")


def inside(got, want, mask, tolerance):
    got = np.asarray(got)
    assert np.isfinite(got).all()
    worst = np.abs(np.float64(got) - want)[mask].max()
    assert worst <= tolerance, f"off by {worst:.1e}; the pack allows {tolerance:.0e}"


def losses(out, token_ids):
    """Mean nats of the next and of the previous words, -100 ignored."""
    ids = jnp.asarray(token_ids)
    ahead, behind = ids[:, 1:], ids[:, :-1]
    known = (ahead >= 0) & (behind >= 0)

    def mean(logits, targets):
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
        return jnp.sum(nll * known) / jnp.sum(known)

    return mean(out["forward_logits"][:, :-1], ahead), mean(out["backward_logits"][:, 1:], behind)


@pytest.mark.parametrize("case", ["full", "ragged"])
def test_activations_logits_and_losses(pack, case):
    model, z = build(pack.config), pack.z
    batch = with_bounds(z[f"{case}/char_ids"])
    mask = z[f"{case}/mask"]
    assert (mask == (batch["segments"] > 0)).all()
    out = jax.jit(lambda p, b: model.apply(p, b, hidden=True))(pack.params, batch)
    for ours, theirs in zip(out["hidden"], z[f"{case}/activations"], strict=True):
        inside(ours, theirs, mask, ACTIVATIONS)
    forward, backward = losses(out, z[f"{case}/token_ids"])
    both = (z[f"{case}/token_ids"][:, 1:] >= 0) & (z[f"{case}/token_ids"][:, :-1] >= 0)
    inside(out["forward_logits"][:, :-1], z[f"{case}/forward_logits"], both, 5e-5)
    inside(out["backward_logits"][:, 1:], z[f"{case}/backward_logits"], both, 5e-5)
    assert abs(float(forward) - float(z[f"{case}/forward_loss"])) <= LOSS
    assert abs(float(backward) - float(z[f"{case}/backward_loss"])) <= LOSS
    assert abs(float(forward + backward) / 2 - float(z[f"{case}/loss"])) <= LOSS


def call_with_carry(model):
    """(params, batch, state) -> (every layer's activations, state)."""

    @jax.jit
    def run(params, batch, state):
        module, segments = model.merge(params), batch["segments"]
        x = module.words(batch)
        layers, state = module.read((x, x), (segments, segments), state)
        return module.join(x, layers, segments), state

    return run


def test_states_go_on_from_batch_to_batch(pack):
    model, z = build(pack.config), pack.z
    run, state = call_with_carry(model), None
    for i in range(3):
        batch = with_bounds(z[f"stateful{i}/char_ids"])
        state = model._class.start(pack.config, 4) if state is None else state
        hidden, state = run(pack.params, batch, state)
        for ours, theirs in zip(hidden, z[f"stateful{i}/activations"], strict=True):
            inside(ours, theirs, z[f"stateful{i}/mask"], ACTIVATIONS)


@pytest.mark.parametrize("unroll", [16, 0])
def test_the_original_tensorflow_outputs(unroll):
    """Ten consecutive batches with the state carried, whatever the loop's turns."""
    pack = ELMoPack("tf_fixture")
    model = build(dataclasses.replace(pack.config, unroll=unroll))
    run, rows = call_with_carry(model), 3
    state = model._class.start(pack.config, rows)
    for i in range(10):
        ids = np.pad(pack.z[f"batch{i}/char_ids"], ((0, 0), (0, 53 - len(
            pack.z[f"batch{i}/char_ids"][0])), (0, 0)))  # fmt: skip
        hidden, state = run(pack.params, with_bounds(ids), state)
        want = pack.z[f"batch{i}/top_layer"]
        length = want.shape[1]
        mask = np.arange(length) < pack.z[f"batch{i}/lengths"][:, None]
        inside(hidden[-1][:, 1 : length + 1], want, mask, FIXTURE)


def total(model, params, batch, token_ids):
    forward, backward = losses(model.apply(params, batch), token_ids)
    return (forward + backward) / 2


@pytest.mark.parametrize("changes", [{}, {"unroll": 4, "chunk_words": 16}])
def test_gradients(pack, changes):
    model, z = build(dataclasses.replace(pack.config, **changes)), pack.z
    case = "ragged" if "grad/case" not in z.files else str(z["grad/case"])
    batch, ids = with_bounds(z[f"{case}/char_ids"]), z[f"{case}/token_ids"]
    gradient = jax.jit(jax.grad(lambda p: total(model, p, batch, ids)))(pack.params)
    ours, theirs = pack.write(gradient), pack.tensors("grads")
    assert ours.keys() == theirs.keys()
    norm = float(z["grad/global_norm"])
    for name, want in theirs.items():
        error = np.linalg.norm(np.float64(ours[name]) - want)
        assert error <= 1e-3 * np.linalg.norm(want) + 1e-6 * norm, name


def trajectory(pack, optimizer):
    model, z = build(pack.config), pack.z

    @jax.jit
    def step(params, state, batch, ids):
        loss, gradient = jax.value_and_grad(lambda p: total(model, p, batch, ids))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(gradient)

    params, state = pack.params, optimizer.init(pack.params)
    found = []
    for i in range(20):
        batch, ids = with_bounds(z["train/char_ids"][i % 5]), z["train/token_ids"][i % 5]
        params, state, loss, norm = step(params, state, batch, ids)
        found.append((float(loss), float(norm)))
    return np.array(found).T, params


def test_twenty_steps_of_adamw(pack):
    t, z = pack.manifest["train"], pack.z

    def rate(i):
        ramp = t["peak_lr"] * (i + 1) / t["warmup_steps"]
        turn = jnp.pi * (i - t["warmup_steps"]) / (t["total_steps"] - t["warmup_steps"])
        fall = t["end_lr"] + (t["peak_lr"] - t["end_lr"]) * 0.5 * (1 + jnp.cos(turn))
        return jnp.where(i < t["warmup_steps"], ramp, fall)

    optimizer = optax.chain(
        optax.clip_by_global_norm(t["grad_clip_norm"]),
        optax.adamw(
            rate,
            b1=t["beta1"],
            b2=t["beta2"],
            eps=t["eps"],
            weight_decay=t["weight_decay"],
            mask=pack.decays(),
        ),
    )
    (loss, norm), params = trajectory(pack, optimizer)
    assert np.abs(loss - z["train/loss"]).max() <= 5e-5
    assert np.abs(norm / z["train/grad_norm"] - 1).max() <= 1e-4
    ours = pack.write(params)
    for name, want in pack.tensors("params_after").items():
        assert np.abs(ours[name] - want).max() <= TRAJECTORY, name


def test_twenty_steps_of_adagrad(pack):
    """The optimizer the original was trained by, as our own settings spell it."""
    from gesso.pretrain.config import OptimizerConfig
    from gesso.pretrain.optimizer.optimizer import make_optimizer

    a, z = pack.manifest["adagrad"], pack.z
    config = OptimizerConfig(
        name="adagrad",
        learning_rate=a["lr"],
        initial_accumulator=a["initial_accumulator_value"],
        epsilon=a["eps"],
    )
    letters = build(pack.config).letters
    optimizer = optax.chain(
        optax.clip_by_global_norm(a["grad_clip_norm"]), make_optimizer(config, letters, steps=20)
    )
    (loss, norm), _ = trajectory(pack, optimizer)
    assert np.abs(loss - z["adagrad/loss"]).max() <= 5e-5
    assert np.abs(norm / z["adagrad/grad_norm"] - 1).max() <= 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"cell_clip": 0.0},
        {"projection_clip": 0.0},
        {"residuals": "none"},
        {"activation": "tanh"},
    ],
)
def test_a_wrong_field_shows(pack, change):
    """The pack would catch a field that is read wrongly."""
    model = build(dataclasses.replace(pack.config, **change))
    batch = with_bounds(pack.z["full/char_ids"])
    got = jax.jit(lambda p, b: model.apply(p, b, hidden=True))(pack.params, batch)["hidden"]
    assert np.abs(got - pack.z["full/activations"]).max() > 1e-2


def test_the_reader_reads_both_ways(pack):
    letters = build(pack.config).letters
    assert jax.tree.structure(letters) == jax.tree.structure(pack.params)
    tensors, back = pack.tensors("lm_weights") | pack.tensors("softmax"), pack.write(pack.params)
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensors[name]).all() for name in tensors)
