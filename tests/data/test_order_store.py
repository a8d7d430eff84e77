"""The order over a real token store: the texts that went in come out, each exactly once."""

import json
from collections import Counter

import numpy as np
import pytest

from gesso.data.config import OrderConfig
from gesso.data.open import heldout, open_store
from gesso.data.order.order import Order
from gesso.data.store.build import build

LENGTH = 4096  # longer than any text below, so that no document is cut


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A store with parts of growing size, and the texts it was built from by component."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    texts: dict[str, list[str]] = {"Books 3": [], "Law (en)": [], "Wiki": []}
    for shard in range(3):
        with (folder / f"{shard}.jsonl").open("w") as lines:
            for n in range(120 + 40 * shard):
                name = list(texts)[rng.integers(3)]
                text = f"{shard} {n} " + "é~" * int(rng.integers(1, 600))
                texts[name].append(text)
                lines.write(json.dumps({"text": text, "meta": {"pile_set_name": name}}) + "\n")
    build(
        sources=[f"{folder}/*.jsonl"],
        folder=folder / "store",
        holdout=0.2,
        part_tokens_first=1 << 13,
        part_tokens_cap=1 << 15,
    )
    return open_store(folder / "store"), texts


def texts_of(made, tokenizer):
    found = []
    for tokens, segments in zip(made["tokens"], made["segments"], strict=True):
        for segment in range(1, segments.max() + 1):
            piece = tokens[segments == segment]
            assert piece[-1] == tokenizer.eos
            found.append(tokenizer.decode(piece[:-1]))
    return found


def test_every_text_once_in_training_or_held_out(corpus):
    store, texts = corpus
    assert store.era(2) is not None  # several eras
    order = Order(store, OrderConfig(length=LENGTH))
    order.rows(0, 1000)  # more than an epoch: all eras are counted
    for c, name in enumerate(order.components):
        component, index = order.mixture.locate(np.arange(2000))
        mine = np.flatnonzero((component == c) & (index < order._eras.epoch_rows(c)))
        trained = texts_of(order.take(mine), store.tokenizer())
        held = heldout(store, name, length=LENGTH, overlap=1)
        apart = texts_of(held.rows(0, len(held)), store.tokenizer())
        assert trained
        assert apart
        assert Counter(trained) + Counter(apart) == Counter(texts[name])


def test_a_state_survives_reopening(corpus):
    store, _ = corpus
    config = OrderConfig(length=128)
    state = Order(store, config).state(333)
    assert Order(open_store(store.folder), config).resume(json.loads(json.dumps(state))) == 333
    assert store.verify() == []  # the counts kept beside it are no part of it
