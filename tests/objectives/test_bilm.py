"""Both directions: what a batch is, what a sample of the softmax estimates, what is refused."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.objectives import BiLMConfig
from gesso.objectives import build as build_objective
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.sampled_softmax import draw, log_inclusion, sampled_cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from elmo_rows import SMALL, rows_of, tokenizer  # noqa: E402


def objective_of(config=BiLMConfig(), *, words=None, model=SMALL):  # noqa: B008
    return build_objective(config, tokenizer=words or tokenizer(), model=model)


def test_what_a_batch_is():
    rows = rows_of([[3, 2], [4]], length=6)
    rows["tokens"][0, :5] = [10, 70, 12, 13, 14]  # 70 is no class
    batch = objective_of().host_batch(rows)
    assert batch["forward_targets"][0].tolist() == [2, 12, 0, 14, 0]
    assert batch["forward_weight"][0].tolist() == [1, 1, 0, 1, 0]
    assert batch["backward_targets"][0].tolist() == [10, 2, 0, 13, 0]
    assert batch["backward_weight"][0].tolist() == [1, 1, 0, 1, 0]
    assert batch["segments"].shape == (2, 5)
    assert batch["pieces"].shape == batch["tokens"].shape == (2, 6)
    assert batch["characters"].shape == (2, 6, 8)
    spelled = tokenizer().spelling
    assert batch["characters"][0, 1].tolist()[:3] == spelled[70, :3].tolist()
    assert (batch["characters"][0, 5] == 260).all(), "padding spells nothing"
    assert (batch["characters"].max(), batch["characters"].dtype) == (260, np.int16)


def test_with_a_carried_state_no_word_is_told_before_it_is_asked():
    rows = rows_of([[6], [6]], length=6)
    batch = objective_of(BiLMConfig(state="carried")).host_batch(rows)
    assert (batch["backward_weight"][:, 0] == 0).all()
    assert (batch["backward_weight"][:, 1:] == 1).all()
    assert (batch["forward_weight"] == 1).all()


def test_rows_are_made_one_by_one():
    rows, objective = rows_of([[3, 2], [4], [6]], length=6), objective_of()
    whole = objective.host_batch(rows)
    for i in range(3):
        one = objective.host_batch({name: leaf[i : i + 1] for name, leaf in rows.items()})
        assert all((one[name][0] == whole[name][i]).all() for name in whole)


def test_a_model_that_reads_words_reads_classes():
    model = dataclasses.replace(SMALL, reads="words")
    rows = rows_of([[3]], length=3)
    rows["tokens"][0] = [10, 79, 12]
    batch = objective_of(model=model).host_batch(rows)
    assert batch["tokens"].tolist() == [[10, 2, 12]]
    assert "characters" not in batch


def test_candidates_come_as_often_as_they_are_said_to():
    classes, samples, draws = 60, 12, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = jax.jit(jax.vmap(lambda key: draw(key, classes=classes, samples=samples)))(keys)
    assert (np.diff(np.sort(drawn, axis=1)) > 0).all(), "an id is drawn once"
    seen = np.bincount(np.asarray(drawn).reshape(-1), minlength=classes) / draws
    said = np.exp(log_inclusion(jnp.arange(classes), classes=classes, samples=samples))
    assert said.sum() == pytest.approx(samples, rel=1e-3)
    # The number of tries is not always the same, as the formula has it: 2 % beside sampling noise.
    assert np.abs(seen - said).max() < 0.02 + 4 * np.sqrt(0.25 / draws)


def test_rare_words_are_drawn_too():
    classes = 793_471
    said = log_inclusion(jnp.array([0, 1000, classes - 1]), classes=classes, samples=8192)
    assert np.exp(said[0]) > 0.999
    assert 0 < np.exp(said[2]) < np.exp(said[1]) < 1


def features(classes=40):
    keys = jax.random.split(jax.random.key(3), 4)
    x = jax.random.normal(keys[0], (2, 3, 8))
    table, bias = jax.random.normal(keys[1], (classes, 8)), jax.random.normal(keys[2], (classes,))
    return x, jax.random.randint(keys[3], (2, 3), 0, classes), 0.5 * table, 0.5 * bias


def test_all_classes_sampled_are_the_full_softmax():
    x, targets, table, bias = features()

    def full(x, table, bias):
        return cross_entropy(x, targets, table, bias, chunk_tokens=0).nll_BL

    def sampled(x, table, bias):
        key = jax.random.key(0)
        return sampled_cross_entropy(x, targets, table, bias, classes=40, samples=40, key=key)

    (want, want_pull), (got, pull) = (jax.vjp(f, x, table, bias) for f in (full, sampled))
    np.testing.assert_allclose(got, want, atol=1e-5)
    for a, b in zip(pull(jnp.ones_like(got)), want_pull(jnp.ones_like(want)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_sample_learns_what_the_full_softmax_learns():
    """One place, its words drawn from a known distribution: both find its logits."""
    classes, samples = 12, 5
    share = jax.nn.softmax(jax.random.normal(jax.random.key(5), (classes,)))
    x = jnp.ones((1, 64, 1))

    def loss(bias, key):
        words, candidates = jax.random.split(key)
        targets = jax.random.choice(words, classes, (1, 64), p=share)
        table = jnp.zeros((classes, 1))
        return sampled_cross_entropy(
            x, targets, table, bias, classes=classes, samples=samples, key=candidates
        ).mean()

    def step(bias, at):
        gradient = jax.grad(loss)(bias, jax.random.key(at))
        return bias - 2.0 / (1 + at / 100) * gradient, None

    bias, _ = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(classes), jnp.arange(3000)))()
    found = jax.nn.softmax(bias)
    np.testing.assert_allclose(found, share, atol=0.03)


def test_a_sampled_target_counts_once():
    """With one class that is the target there is no other: the cost is 0, not log 2."""
    x, _, table, bias = features()
    targets = jnp.zeros((2, 3), jnp.int32)
    cost = sampled_cross_entropy(
        x, targets, table, bias, classes=1, samples=1, key=jax.random.key(0)
    )
    np.testing.assert_allclose(cost, 0, atol=1e-6)


def test_evaluation_is_full():
    model, seen = SimpleNamespace(), []
    objective = objective_of(BiLMConfig(softmax="sampled", samples=8))
    model.start = lambda config, rows: {}
    model.words = lambda batch: jnp.ones((1, 6, 8))
    model.read = lambda *given: (jnp.ones((1, 2, 1, 5, 8)), {})
    model.head = lambda direction: (seen.append(direction), features()[2:])[1]
    batch = objective.host_batch(rows_of([[6]], length=6))
    full = objective(model, batch, None)
    want = cross_entropy(
        jnp.ones((1, 5, 8)), batch["forward_targets"], *features()[2:], chunk_tokens=0
    )
    np.testing.assert_allclose(full["forward"], want.nll_BL, rtol=1e-6)
    sampled = objective(model, batch, jax.random.key(0))
    assert seen == ["forward", "backward"] * 2
    assert (sampled["forward"] != full["forward"]).any()


def test_what_cannot_be_is_refused():
    words = tokenizer()
    bytes_like = SimpleNamespace(kind="bytes", vocab_size=64, special={}, spelling=None)
    for config, given, model, told in (
        (BiLMConfig(softmax="sampled", samples=65), words, SMALL, "65 are more than the 64"),
        (BiLMConfig(softmax="sampled"), words, SMALL, "must be at least 1"),
        (BiLMConfig(samples=5), words, SMALL, "no effect"),
        (BiLMConfig(), bytes_like, SMALL, "kind bytes, has no words to spell"),
        (BiLMConfig(), words, dataclasses.replace(SMALL, vocab=63), "--model.vocab 64"),
        (BiLMConfig(), words, dataclasses.replace(SMALL, head="none"), "needs a softmax"),
        (
            BiLMConfig(),
            words,
            SimpleNamespace(family="gpt", architecture="decoder"),
            "family elmo, not gpt",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            build_objective(config, tokenizer=given, model=model)
