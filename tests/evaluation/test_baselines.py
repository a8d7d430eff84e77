"""Baselines against their definitions, on the very targets the model is scored on."""

import math
from collections import Counter

import numpy as np
import pytest
from evaluation_stores import MemoryStore

from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.evaluation.heldout.baselines import END, Grams, baselines

LENGTH = 32
TRAIN = ["the cat sat on the mat", "the dog ate the cat", "a cat, a dog", "ünïcödé text", "x" * 99]
HELD = ["the cat ate the dog", "a dog sat", "ö", "", "the mat " * 20]


def store(train=TRAIN, held=HELD):
    return MemoryStore({"A": {"train": train, "holdout": held}})


def witten_bell(train, context, symbol, order):
    """p(symbol | the last order - 1 of context), from the definition, with dictionaries."""
    if order == 0:
        return 1 / 257
    history = tuple(context[len(context) - order + 1 :])
    followers = Counter(
        document[i]
        for document in train
        for i in range(order - 1, len(document))
        if tuple(document[i - order + 1 : i]) == history
    )
    shorter = witten_bell(train, context, symbol, order - 1)
    total, kinds = sum(followers.values()), len(followers)
    return (followers[symbol] + kinds * shorter) / (total + kinds) if total else shorter


def symbols(text):
    return [*text.encode(), END]


def test_3gram_equals_its_definition():
    train = [symbols(text) for text in TRAIN]
    bits = size = 0.0
    for text in HELD[:4]:  # those that fit in a row; longer ones are cut
        document = symbols(text)
        for i in range(1, len(document)):
            bits -= math.log2(
                witten_bell(train, document[max(0, i - 2) : i], document[i], min(i + 1, 3))
            )
        size += max(len(document) - 2, 0)
    ours = baselines(store(held=HELD[:4]), length=LENGTH)
    assert ours["byte_3gram"] == pytest.approx(bits / size, rel=1e-9)


def test_unigram_equals_its_definition():
    counts = Counter(symbol for text in TRAIN for symbol in symbols(text))
    total = sum(counts.values()) + 257
    targets = [symbol for text in HELD for symbol in symbols(text)[1:]]
    bits = -sum(math.log2((counts[symbol] + 1) / total) for symbol in targets)
    size = sum(symbol != END for symbol in targets)
    assert baselines(store(), length=LENGTH)["unigram"] == pytest.approx(bits / size, rel=1e-9)


def test_unigram_of_a_known_source_approaches_its_entropy():
    random = np.random.default_rng(0)
    p = np.array([0.5, 0.25, 0.125, 0.125])
    texts = ["".join(random.choice(list("abcd"), 4000, p=p)) for _ in range(12)]
    entropy = float(-(p * np.log2(p)).sum())
    ours = baselines(store(texts[:10], texts[10:]), length=4096)
    # 8000 draws: a standard error of 0.009 bits; smoothing and the end symbol cost 0.01.
    assert ours["unigram"] == pytest.approx(entropy, abs=0.04)
    assert ours["byte_3gram"] == pytest.approx(entropy, abs=0.05), "nothing to learn from context"


def test_context_helps_where_there_is_something_to_learn():
    ours = baselines(store(["ab" * 500] * 5, ["ab" * 300]), length=1024)
    assert ours["unigram"] > 0.95 and ours["byte_3gram"] < 0.1


def test_probabilities_sum_to_one():
    grams = Grams()
    for text in TRAIN:
        grams.add(np.array(symbols(text)), np.array([0]))
    grams.finish()
    for context in ([], [ord("t")], [ord("t"), ord("h")], [7, 9], [ord("x"), ord("x")]):
        every = [
            grams.probabilities(np.array([*context, s]), np.array([0]))[-1] for s in range(257)
        ]
        assert sum(every) == pytest.approx(1.0, rel=1e-12)


def test_documents_joined_or_apart_count_the_same():
    apart, joined = Grams(), Grams()
    pieces = [np.array(symbols(text)) for text in TRAIN]
    for piece in pieces:
        apart.add(piece, np.array([0]))
    joined.add(np.concatenate(pieces), np.cumsum([0] + [len(p) for p in pieces[:-1]]))
    probe = np.array(symbols("the cat"))
    for grams in (apart, joined):
        grams.finish()
    first = apart.probabilities(probe, np.array([0]))
    np.testing.assert_array_equal(first, joined.probabilities(probe, np.array([0])))


def test_rows_limit_scores_the_same_targets_as_the_model():
    # Row 0 alone: the piece that fills a row; all its targets are bytes of one long document.
    ours = baselines(store(held=["the cat " * 40, "zzz"]), length=LENGTH, rows=1)
    everything = baselines(store(held=["the cat " * 40, "zzz"]), length=LENGTH)
    assert ours["byte_3gram"] < everything["byte_3gram"]


def test_the_training_text_is_capped_and_taken_from_every_component():
    texts = {
        "A": {"train": ["a" * 100] * 50, "holdout": ["a" * 50]},
        "B": {"train": ["b" * 100] * 50, "holdout": ["b" * 50]},
    }
    small = baselines(MemoryStore(texts), length=64, train_bytes=400)
    whole = baselines(MemoryStore(texts), length=64)
    # Two documents of each component: enough to know that a's follow a's and b's follow b's.
    assert small["byte_3gram"] < 0.5
    assert small["unigram"] > whole["unigram"], "fewer counts leave more to the added ones"


class PairTokenizer(BytesTokenizer):
    """Two bytes to an id where they are a pair of letters: ids 300 + 26 * first + second."""

    kind, vocab_size = "bpe", 300 + 26 * 26

    def __init__(self):
        super().__init__()
        self.byte_lengths = np.concatenate(
            [np.ones(256), np.zeros(44), np.full(26 * 26, 2)]
        ).astype(np.int32)

    def encode(self, text):
        ids, at, raw = [], 0, text.encode()
        while at < len(raw):
            pair = raw[at : at + 2]
            if len(pair) == 2 and all(97 <= b < 123 for b in pair):
                ids.append(300 + 26 * (pair[0] - 97) + pair[1] - 97)
                at += 2
            else:
                ids.append(raw[at])
                at += 1
        return np.array(ids, np.uint32)

    def decode(self, ids):
        out = bytearray()
        for i in np.asarray(ids).tolist():
            out += bytes([i]) if i < 256 else bytes([97 + (i - 300) // 26, 97 + (i - 300) % 26])
        return out.decode("utf-8", "replace")


def test_other_tokenizers_score_the_bytes_of_their_targets():
    held = ["the cat", "a dog"]
    made = MemoryStore({"A": {"train": TRAIN, "holdout": held}}, PairTokenizer())
    train = [symbols(text) for text in TRAIN]
    bits = size = 0.0
    for text, first in zip(held, (2, 1), strict=True):  # "th", "a": the bytes of the first token
        document = symbols(text)
        for i in range(first, len(document)):
            bits -= math.log2(
                witten_bell(train, document[max(0, i - 2) : i], document[i], min(i + 1, 3))
            )
        size += len(text) - first
    assert baselines(made, length=LENGTH)["byte_3gram"] == pytest.approx(bits / size, rel=1e-9)


def test_nothing_held_out_is_an_error():
    with pytest.raises(ValueError, match="nothing is held out in A"):
        baselines(store(held=[]), length=LENGTH)
