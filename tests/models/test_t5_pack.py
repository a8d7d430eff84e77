"""I5 for T5: outputs, both sides' hidden states, gradients, greedy ids and 20 steps are the pack's.

Tolerances are the pack's own (its manifest): the smallest reimplementation error ever measured on
it is 4.3e-4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pack_reader import Pack, flat, nest, token_mean

from gesso.evaluation.generation.seq2seq import continuations
from gesso.models import build

LOGITS, LOSS, TRAJECTORY, NORM = 5e-5, 2e-5, 5e-5, 1e-4


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def pack():
    return T5Pack("t5")


class T5Pack(Pack):
    def batch(self, case, i=...):
        z, labels = self.z, self.z[f"{case}/labels"][i]
        # Their decoder reads its own targets one place later, and pads are read like any token.
        read = np.where(labels == -100, 0, labels)[:, :-1]
        tokens = np.concatenate([np.full_like(read[:, :1], self.config.start), read], axis=1)
        if f"{case}/decoder_input_ids" in z.files:
            assert (tokens == z[f"{case}/decoder_input_ids"]).all()
        mask = z[f"{case}/attention_mask"][i].astype(np.int32)
        batch = {"source": z[f"{case}/input_ids"][i], "source_segments": mask, "tokens": tokens}
        return batch, labels


def worst(got, want, mask):
    assert np.isfinite(got).all()
    return np.abs(np.float64(got) - want)[..., mask, :].max()


def test_logits_losses_and_hidden_states(pack):
    apply = jax.jit(functools.partial(pack.model.apply, hidden=True))
    for case in ("full", "right"):
        (batch, labels), z = pack.batch(case), pack.z
        out = apply(pack.params, batch)
        assert worst(out["logits"], z[f"{case}/logits"], labels != -100) <= LOGITS
        assert abs(float(token_mean(out["logits"], labels)) - z[f"{case}/loss"]) <= LOSS
    for name, mask in (("encoder_hidden", batch["source_segments"] == 1), ("hidden", labels >= 0)):
        want = z[f"right/{name.replace('_hidden', '').replace('hidden', 'decoder')}_hidden_states"]
        assert out[name].shape == want.shape
        assert worst(out[name], want, mask) <= LOGITS


@pytest.mark.parametrize("change", [{}, {"remat": "full"}, {"remat": "dots", "unroll": 2}])
def test_gradients(pack, change):
    model, (batch, labels) = build(dataclasses.replace(pack.config, **change)), pack.batch("right")

    def loss(params):
        return token_mean(model.apply(params, batch)["logits"], labels)

    ours = pack.write(jax.jit(jax.grad(loss))(pack.params))
    theirs, norm = pack.tensors("grads"), float(pack.z["grad/global_norm"])
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        error = np.linalg.norm(np.float64(ours[name]) - want)
        assert error <= 1e-3 * np.linalg.norm(want) + 1e-6 * norm, name


def test_greedy_ids(pack):
    want, (batch, _) = pack.z["greedy/new_ids"], pack.batch("right")
    given = {name: batch[name] for name in ("source", "source_segments")}
    given["tokens"] = batch["tokens"][:, :1]
    made = continuations(pack.model, pack.params, given, max_tokens=want.shape[1], eos=-1)
    assert (made == want).all()


def test_a_trajectory_of_20_steps(pack):
    t = pack.manifest["train"]

    def rate(i):
        ramp = t["peak_lr"] * (i + 1) / t["warmup_steps"]
        turn = jnp.pi * (i - t["warmup_steps"]) / (t["total_steps"] - t["warmup_steps"])
        fall = t["end_lr"] + (t["peak_lr"] - t["end_lr"]) * 0.5 * (1 + jnp.cos(turn))
        return jnp.where(i < t["warmup_steps"], ramp, fall)

    decayed = jax.tree.map(lambda letters: letters not in ("D", "ZD"), pack.model.letters)
    adamw = optax.adamw(
        rate,
        b1=t["beta1"],
        b2=t["beta2"],
        eps=t["eps"],
        weight_decay=t["weight_decay"],
        mask=decayed,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(t["grad_clip_norm"]), adamw)

    @jax.jit
    def step(params, state, batch, labels):
        def loss(params):
            return token_mean(pack.model.apply(params, batch)["logits"], labels)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, optax.tree.norm(gradient)

    params, state = pack.params, optimizer.init(pack.params)
    for i in range(t["steps"]):
        params, state, value, norm = step(params, state, *pack.batch("train", i % 5))
        assert abs(float(value) - pack.z["train/loss"][i]) <= TRAJECTORY, f"step {i}"
        assert abs(float(norm) / pack.z["train/grad_norm"][i] - 1) <= NORM, f"step {i}"
    ours = pack.write(params)
    for name, want in pack.tensors("params_after").items():
        assert np.abs(ours[name] - want).max() <= 1e-4, name


@pytest.mark.parametrize(
    "change",
    [
        {"head_scale": "none"},
        {"attention_scale": "head_dim"},
        {"relative_distance": 19},
        {"activation": "gelu_tanh"},
        {"embedding_scale": "sqrt_embed"},
        {"norm_kind": "layer"},
    ],
)
def test_a_wrong_field_shows(pack, change):
    """The pack would catch a field that is read wrongly: each moves the logits past tolerance."""
    model, (batch, labels) = build(dataclasses.replace(pack.config, **change)), pack.batch("full")
    params = pack.params
    if change.get("norm_kind") == "layer":
        params = with_biases(params, model.letters)
    logits = jax.jit(model.apply)(params, batch)["logits"]
    assert worst(logits, pack.z["full/logits"], labels != -100) > 2e-4


def with_biases(params, letters):
    have = flat(params)
    scales = {
        name: have[name[: -len("bias")] + "scale"] for name in flat(letters) if name not in have
    }
    return nest(have | {name: np.zeros_like(scale) for name, scale in scales.items()})
