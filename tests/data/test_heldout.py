"""Held-out rows: all of them, once, always the same."""

import numpy as np
import pytest
from memory_store import documents_of, make_store

from gesso.data.config import OrderConfig
from gesso.data.open import heldout
from gesso.data.order.order import Order


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


@pytest.mark.parametrize("overlap", [0, 1])
def test_every_held_out_token_once(store, overlap):
    for index, component in enumerate(store.components):
        rows = heldout(store, component, length=64, overlap=overlap)
        made = rows.rows(0, len(rows))
        tokens, segments = made["tokens"], made["segments"]
        documents = documents_of(store, component, "holdout")
        assert set(made["component"]) == {index}
        if overlap:
            inside = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
            expected = np.concatenate([each[1:] for each in documents])
            assert sorted(tokens[:, 1:][inside]) == sorted(expected)
        else:
            assert sorted(tokens[segments > 0]) == sorted(np.concatenate(documents))


def test_no_held_out_token_is_trained_on(store):
    held = heldout(store, "Wiki", length=64, overlap=1)
    made = held.rows(0, len(held))
    held_tokens = set(made["tokens"][made["segments"] > 0])
    trained = Order(store, OrderConfig(length=64)).rows(0, 400)
    assert not held_tokens & set(trained["tokens"][trained["segments"] > 0])


def test_rows_do_not_depend_on_how_they_are_asked_for(store):
    held = heldout(store, "Wiki", length=64, overlap=1)
    whole = held.rows(0, len(held))
    parts = [held.rows(i, 1) for i in range(len(held))]
    for name in whole:
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))
    assert whole["row"].tolist() == list(range(len(held)))


def test_rows_come_in_store_order(store):
    held = heldout(store, "Wiki", length=64, overlap=1)
    first = held.rows(0, len(held))["tokens"][:, 0]
    assert (np.diff(first) > 0).all()  # tokens count up through the store


def test_first_eras_of_a_store_that_is_being_built(store):
    whole = heldout(store, "Law", length=64, overlap=1)
    store.complete = False
    with pytest.raises(ValueError, match="still being built"):
        heldout(store, "Law", length=64, overlap=1)
    first = heldout(store, "Law", length=64, overlap=1, eras=1)
    assert 0 < len(first) < len(whole)
    rows = first.rows(0, len(first))["tokens"]
    assert np.array_equal(rows, whole.rows(0, len(first))["tokens"])


def test_refused(store):
    with pytest.raises(ValueError, match="'Lew' is not in the store"):
        heldout(store, "Lew", length=64, overlap=1)
    with pytest.raises(ValueError, match="at least 2"):
        heldout(store, "Law", length=1, overlap=1)
    held = heldout(store, "Law", length=64, overlap=1)
    with pytest.raises(IndexError):
        held.rows(len(held), 1)
