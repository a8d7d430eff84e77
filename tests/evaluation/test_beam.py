"""Beam search against exhaustive search, a plain one written without a cache, and greedy."""

import functools
import itertools

import jax
import numpy as np
import pytest

from gesso.evaluation.generation.beam import LengthPenalty, beam_search
from gesso.evaluation.generation.decoding import take_rows
from gesso.evaluation.generation.seq2seq import continuations
from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig, Seq2SeqConfig, build

VOCAB, EOS, LONGEST = 5, 4, 4
SHAPE = {"vocab": VOCAB, "embed": 16, "heads": 2, "mlp": 32}
MODELS = {
    "seq2seq": Seq2SeqConfig(**SHAPE, head_dim=8, embed_std=0.5),
    "encoder_decoder": EncoderDecoderConfig(
        encoder=BERTConfig(**SHAPE, positions=16, init_std=0.4, outputs=()),
        decoder=GPTConfig(**SHAPE, positions=16, init_std=0.4),
    ),
    "gpt": GPTConfig(**SHAPE, positions=16, init_std=0.4),
}
PENALTIES = [LengthPenalty(kind=k, alpha=a) for k in ("wu", "power") for a in (0.0, 0.6, 2.0, -1.0)]
BATCHES = {
    "seq2seq": {
        "source": np.array([[0, 1, 2, 3, 1, 0], [3, 3, 0, 0, 0, 0]], np.int32),
        "source_segments": np.array([[1] * 6, [1, 1, 0, 0, 0, 0]], np.int32),
        "tokens": np.zeros((2, 1), np.int32),
    },
    "gpt": {  # prompts of different lengths, which end together
        "tokens": np.array([[0, 1, 2, 3], [0, 0, 0, 2]], np.int32),
        "segments": np.array([[1, 1, 1, 1], [0, 0, 0, 1]], np.int32),
        "positions": np.array([[0, 1, 2, 3], [0, 0, 0, 0]], np.int32),
    },
}
BATCHES["encoder_decoder"] = BATCHES["seq2seq"]


@functools.cache
def made(family):
    """(model, params, {prefix: log-probabilities of the next id} of each row), by full forwards."""
    model = build(MODELS[family])
    params = model.init(jax.random.key(3))
    whole = np.array(list(itertools.product(range(VOCAB), repeat=LONGEST)), np.int32)
    n, tables = len(whole), []
    for row in range(2):
        given = {name: leaf[row : row + 1] for name, leaf in BATCHES[family].items()}
        if family == "gpt":
            given = {"tokens": given["tokens"][given["segments"] > 0][None]}
        first = given["tokens"].shape[1]
        batch = {name: np.repeat(leaf, n, axis=0) for name, leaf in given.items()}
        batch["tokens"] = np.concatenate([batch["tokens"], whole[:, :-1]], axis=1)
        logits = jax.jit(model.apply)(params, batch)["logits"][:, first - 1 :]
        logs = np.float64(jax.nn.log_softmax(logits))
        tables.append(
            {tuple(ids[:t]): logs[i, t] for i, ids in enumerate(whole) for t in range(LONGEST)}
        )
    return model, params, tables


def score(table, ids, penalty):
    total = sum(table[tuple(ids[:t])][token] for t, token in enumerate(ids))
    n, alpha = len(ids), penalty.alpha
    return total / (((5 + n) / 6) ** alpha if penalty.kind == "wu" else n**alpha)


def exhaustive(table, penalty):
    """All hypotheses, best first: what ends, and what is cut at LONGEST."""
    plain = [each for each in range(VOCAB) if each != EOS]
    every = [(*ids, EOS) for t in range(LONGEST) for ids in itertools.product(plain, repeat=t)]
    every += list(itertools.product(plain, repeat=LONGEST))
    return sorted(((score(table, ids, penalty), ids) for ids in every), reverse=True)


def searched(table, penalty, *, beams):
    """A beam search that goes on to the last length."""
    live, ended = [((), 0.0)], []
    for t in range(1, LONGEST + 1):
        every = [
            ((*ids, token), total + table[ids][token])
            for ids, total in live
            for token in range(VOCAB)
        ]
        best = sorted(every, key=lambda each: -each[1])[:beams]
        live = [each for each in best if each[0][-1] != EOS]
        ended += [each for each in best if each[0][-1] == EOS or t == LONGEST]
    scored = sorted(((score(table, ids, penalty), ids) for ids, _ in ended), reverse=True)
    return scored[:beams]


def compare(found, row, want):
    count = len(want)
    np.testing.assert_allclose(found.scores[row, :count], [s for s, _ in want], rtol=2e-5)
    for hypothesis, (_, ids) in enumerate(want):
        length = int(found.lengths[row, hypothesis])
        assert tuple(found.ids[row, hypothesis, :length]) == ids
        assert (found.ids[row, hypothesis, length:] == EOS).all()
    assert np.isneginf(found.scores[row, count:]).all()


def run(family, penalty, *, beams):
    model, params, _ = made(family)
    return beam_search(
        model, params, BATCHES[family], beams=beams, max_tokens=LONGEST, eos=EOS, penalty=penalty
    )


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("family", MODELS)
def test_enough_beams_are_exhaustive_search(family, penalty):
    """All 320 continuations of the longest live beams fit: every hypothesis is found, in order."""
    found = run(family, penalty, beams=400)
    for row, table in enumerate(made(family)[2]):
        want = exhaustive(table, penalty)
        assert len(want) == 341
        compare(found, row, want)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("beams", [2, 3])
def test_stopping_early_loses_nothing(penalty, beams):
    found = run("seq2seq", penalty, beams=beams)
    for row, table in enumerate(made("seq2seq")[2]):
        compare(found, row, searched(table, penalty, beams=beams))


@pytest.mark.parametrize("penalty", PENALTIES[:3], ids=str)
@pytest.mark.parametrize("family", MODELS)
def test_one_beam_is_greedy(family, penalty):
    model, params, _ = made(family)
    greedy = continuations(model, params, BATCHES[family], max_tokens=LONGEST, eos=EOS)
    assert (run(family, penalty, beams=1).ids[:, 0] == greedy).all()


def test_the_penalty_decides():
    """A longer hypothesis wins under a large alpha, the empty one under a very negative one."""
    short, long = (
        run("seq2seq", LengthPenalty(kind="power", alpha=a), beams=400).lengths[:, 0]
        for a in (-8.0, 8.0)
    )
    assert (short == 1).all() and (long == LONGEST).all()


def test_only_allowed_ids_are_made():
    model, params, _ = made("seq2seq")
    allowed = np.array([True, False, False, True, True])
    found = beam_search(
        model, params, BATCHES["seq2seq"], beams=3, max_tokens=LONGEST, eos=EOS, allowed=allowed
    )
    assert np.isin(found.ids, [0, 3, 4]).all() and np.isfinite(found.scores).all()


def test_rows_of_a_cache_are_found_by_their_letters():
    model, params, _ = made("seq2seq")
    cache = model.encode(params, BATCHES["seq2seq"], LONGEST)
    kept, taken = (
        take_rows(cache, np.array([1, 1, 0]), source=source) for source in ("keep", "take")
    )
    assert kept.source is not None and kept.source.k_ZBSKH.shape[1] == 2
    assert kept.written.k_ZBSKH.shape[1] == taken.source.k_ZBSKH.shape[1] == 3
    assert (taken.source.segments_BS == cache.source.segments_BS[np.array([1, 1, 0])]).all()
    assert taken.written.length.shape == ()


def test_what_cannot_be_searched_is_refused():
    model, params, _ = made("gpt")
    settings = {"beams": 2, "max_tokens": 4, "eos": EOS}
    for change in ({"beams": 0}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            beam_search(model, params, BATCHES["gpt"], **settings | change)
    with pytest.raises(ValueError, match="make max_tokens at most 13"):
        beam_search(model, params, BATCHES["gpt"], **settings | {"max_tokens": 14})
    with pytest.raises(ValueError, match="gpt model has no encoder"):
        model.encode(params, BATCHES["gpt"], 4)
