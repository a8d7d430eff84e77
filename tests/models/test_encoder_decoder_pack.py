"""I5 for BERT2BERT: outputs, both sides' hidden states, gradients, greedy ids and 20 steps are the
pack's. Tolerances are the pack's own (its manifest)."""

import functools

import jax
import numpy as np
import pytest
from bert_pack_reader import BERTPack, token_mean, trajectory

from gesso.evaluation.generation.seq2seq import continuations

LOGITS, LOSS, TRAJECTORY, NORM = 5e-5, 2e-5, 5e-5, 1e-4


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def pack():
    return BERTPack("encoder_decoder")


def batch_of(pack, case, i=...):
    """The decoder reads its labels one place later, their -100 as padding."""
    z, labels = pack.z, pack.z[f"{case}/labels"][i]
    read = np.where(labels == -100, 0, labels)[:, :-1]
    tokens = np.concatenate([np.full_like(read[:, :1], pack.config.start), read], axis=1)
    if f"{case}/decoder_input_ids" in z.files:
        assert (tokens == z[f"{case}/decoder_input_ids"]).all()
    return {
        "source": z[f"{case}/input_ids"][i],
        "source_segments": z[f"{case}/attention_mask"][i],
        "tokens": tokens,
        "segments": (tokens != 0).astype(np.int32),
        "labels": labels,
    }


def loss_of(model):
    return lambda params, batch: token_mean(model.apply(params, batch)["logits"], batch["labels"])


def worst(got, want, mask):
    assert np.isfinite(got).all() and got.shape == want.shape
    return np.abs(np.float64(got) - want)[..., mask, :].max()


def test_logits_losses_and_hidden_states(pack):
    apply, z = jax.jit(functools.partial(pack.model.apply, hidden=True)), pack.z
    for case in ("full", "right"):
        batch = batch_of(pack, case)
        out, mask = apply(pack.params, batch), batch["labels"] != -100
        assert worst(out["logits"], z[f"{case}/logits"], mask) <= LOGITS
        assert abs(float(token_mean(out["logits"], batch["labels"])) - z[f"{case}/loss"]) <= LOSS
    source = batch["source_segments"] == 1
    assert worst(out["encoder_hidden"], z["right/encoder_hidden_states"], source) <= LOGITS
    assert worst(out["hidden"], z["right/decoder_hidden_states"], mask) <= LOGITS


def test_gradients(pack):
    loss = loss_of(pack.replaced(remat="full", attention="dense"))
    ours = pack.write(jax.jit(jax.grad(loss))(pack.params, batch_of(pack, "right")))
    theirs, norm = pack.tensors("grads"), float(pack.z["grad/global_norm"])
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        error = np.linalg.norm(np.float64(ours[name]) - want)
        assert error <= 1e-3 * np.linalg.norm(want) + 1e-6 * norm, name
    # The encoder's pooler is there, and nothing reads it.
    assert not np.abs(ours["encoder.pooler.dense.weight"]).any()


def test_greedy_ids(pack):
    want, batch = pack.z["greedy/new_ids"], batch_of(pack, "right")
    given = {name: batch[name] for name in ("source", "source_segments")}
    given["tokens"] = np.full((len(want), 1), pack.config.start, np.int32)
    made = continuations(pack.model, pack.params, given, max_tokens=want.shape[1], eos=-1)
    assert (made == want).all()


def test_a_trajectory_of_20_steps(pack):
    batches = [batch_of(pack, "train", i) for i in range(5)]
    losses, norms = trajectory(pack, loss_of(pack.model), batches)
    assert np.abs(losses - pack.z["train/loss"]).max() <= TRAJECTORY
    assert np.abs(norms / pack.z["train/grad_norm"] - 1).max() <= NORM


def test_the_reader_reads_both_ways(pack):
    tensors, back = pack.tensors("model"), pack.write(pack.params)
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensors[name]).all() for name in tensors)
