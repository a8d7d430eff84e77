"""Text of another document: really another, the same for everyone who asks, and all of it used."""

import numpy as np
import pytest
from memory_store import documents_of, make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.open import heldout
from gesso.data.order.companions import NoOtherDocumentError
from gesso.data.order.order import Order

CONFIG = OrderConfig(length=64, overlap=0, overhead=3, companions=True)
NAMES = ("other_tokens", "other_segments", "other_positions")


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


def document_of(store, split="train"):
    """{token: (component, document)}: no token occurs twice in the store."""
    found = {}
    for name in store.components:
        for number, document in enumerate(documents_of(store, name, split)):
            found |= dict.fromkeys(document.tolist(), (name, number))
    return found


def pieces(made, prefix=""):
    """{(row, segment): tokens}."""
    segments, tokens = made[f"{prefix}segments"], made[f"{prefix}tokens"]
    return {
        (row, s): tokens[row][segments[row] == s]
        for row in range(len(segments))
        for s in range(1, segments[row].max() + 1)
    }


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_another_document_of_the_same_component(store, split):
    if split == "train":
        made = Order(store, CONFIG).rows(0, 150)
    else:
        rows = heldout(store, "Wiki", length=64, overlap=0, overhead=3, companions=True)
        made = rows.rows(0, len(rows))
    home = document_of(store, split)
    own, other = pieces(made), pieces(made, "other_")
    assert own.keys() == other.keys()
    full = 0
    for place, tokens in own.items():
        beside = other[place]
        assert 0 < len(beside) <= len(tokens)
        assert (np.diff(beside) == 1).all()  # one run of one document: tokens count up
        (name, document), (other_name, other_document) = home[tokens[0]], home[beside[0]]
        assert home[beside[-1]] == (other_name, other_document)
        assert name == other_name and document != other_document
        full += len(beside) == len(tokens)
    assert full > 0.6 * len(own)  # the rest are runs of documents shorter than the piece


def test_the_whole_of_other_documents_is_drawn(store):
    made = Order(store, CONFIG).rows(0, 1500)
    law = made["component"] == store.components.index("Law")
    drawn = set(made["other_tokens"][law][made["other_segments"][law] > 0].tolist())
    all_tokens = np.concatenate(documents_of(store, "Law"))
    assert len(drawn) > 0.8 * len(all_tokens)


def test_rows_do_not_depend_on_who_asks(store):
    whole = Order(store, CONFIG).rows(0, 60)
    each = [Order(store, CONFIG).take(np.arange(host, 60, 3)) for host in range(3)]
    joined = {name: np.concatenate([part[name] for part in each]) for name in (*NAMES, "row")}
    back = np.argsort(joined["row"])
    assert all(np.array_equal(whole[name], joined[name][back]) for name in NAMES)
    plain = Order(store, OrderConfig(length=64, overlap=0, overhead=3)).rows(0, 60)
    assert all(np.array_equal(whole[name], plain[name]) for name in plain)
    assert not set(NAMES) & plain.keys()


def test_another_seed_draws_others(store):
    a = Order(store, CONFIG).take(np.arange(40))["other_tokens"]
    wide = OrderConfig(length=64, overlap=0, overhead=3, companions=True, seed=1)
    assert not np.array_equal(a, Order(store, wide).take(np.arange(40))["other_tokens"])


def test_an_era_with_one_document_borrows(store):
    for era in store.eras[:2]:
        era.documents["Law", "train"] = era.documents["Law", "train"][:1]
    home = document_of(store)
    made = Order(store, CONFIG).rows(0, 400)
    law = made["component"] == store.components.index("Law")
    for place, tokens in pieces({k: v[law] for k, v in made.items()}).items():
        beside = pieces({k: v[law][place[0]][None] for k, v in made.items()}, "other_")
        assert home[tokens[0]] != home[beside[0, place[1]][0]]


def test_a_component_with_one_document_is_refused_at_once(store):
    for number, era in enumerate(store.eras):
        era.documents["Law", "train"] = era.documents["Law", "train"][: number == 0]
    with pytest.raises(NoOtherDocumentError, match="at least two documents in component 'Law'"):
        Order(store, CONFIG)
    store.complete = False  # nobody knows yet: said when the rows are made
    weights = MixtureConfig(kind="weights", values={"Code": 1, "Law": 1})
    order = Order(store, OrderConfig(length=64, overlap=0, companions=True, mixture=weights))
    store.complete = True
    with pytest.raises(NoOtherDocumentError, match="'Law'"):
        order.rows(0, 400)


def test_one_held_out_document_has_no_text_beside_it(store):
    for number, era in enumerate(store.eras):
        era.documents["Law", "holdout"] = era.documents["Law", "holdout"][: number == 0]
    rows = heldout(store, "Law", length=64, overlap=0, companions=True)
    made = rows.rows(0, len(rows))
    assert not any(made[name].any() for name in NAMES)


def test_windows_of_a_stream_have_no_companions(store):
    with pytest.raises(ValueError, match="packing 'concat'"):
        Order(store, OrderConfig(length=64, overlap=0, companions=True, packing="concat"))


def test_states(store):
    order = Order(store, CONFIG)
    assert order.state(5)["companions"] is True
    assert order.resume(order.state(5)) == 5
