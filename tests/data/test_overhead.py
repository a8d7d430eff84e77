"""Rows that keep places free for every piece: nothing lost, nothing over, old orders untouched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import documents_of, make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.open import heldout
from gesso.data.order.order import Order
from gesso.data.order.pack import gather, make_plan, measure
from gesso.data.order.resume import StateDiffers

WEIGHTS = MixtureConfig(kind="weights", values={"Code": 2, "Law": 1, "Wiki": 3})


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.integers(0, 90), max_size=60).map(lambda x: np.array(x, np.int64)),
    length=st.integers(8, 40),
    overhead=st.integers(0, 6),
    packing=st.sampled_from(["best_fit", "concat"]),
)
def test_every_token_once_and_no_row_over(documents, length, overhead, packing):
    shape = {"length": length, "overlap": 0, "packing": packing, "overhead": overhead}
    plan = make_plan(documents, **shape)
    seen = np.zeros(documents.sum(), int)
    for start, size in zip(plan.starts, plan.lengths, strict=True):
        seen[start : start + size] += 1
    assert (seen == 1).all()
    if not plan.rows:
        return
    _, lengths, count = gather(plan, np.arange(plan.rows))
    held = np.add.reduceat(lengths + overhead, np.cumsum(count) - count)
    assert held.max() <= length
    assert measure(documents, **shape) == (plan.rows, held.sum())


def test_no_overhead_is_the_order_of_before():
    documents = np.arange(1, 200) * 7919 % 61 + 1
    shape = {"length": 64, "overlap": 1, "packing": "best_fit"}
    before, now = make_plan(documents, **shape), make_plan(documents, **shape, overhead=0)
    assert all(np.array_equal(getattr(before, x), getattr(now, x)) for x in ("starts", "first"))


@pytest.mark.parametrize("overhead", [2, 3])
def test_rows_of_an_order(tmp_path, overhead):
    store = make_store(tmp_path)
    config = OrderConfig(length=64, overlap=0, overhead=overhead, mixture=WEIGHTS)
    order = Order(store, config)
    made = order.rows(0, 300)
    pieces = made["segments"].max(1)
    assert ((made["segments"] > 0).sum(1) + overhead * pieces <= 64).all()
    assert pieces.max() > 1
    # Wiki's first epoch holds every token of its documents once.
    wiki = order.components.index("Wiki")
    n = order._eras.epoch_rows(wiki)
    rows = np.flatnonzero(order.mixture.locate(np.arange(2000))[0] == wiki)[:n]
    whole = order.take(rows)
    tokens = whole["tokens"][whole["segments"] > 0]
    assert sorted(tokens) == sorted(np.concatenate(documents_of(store, "Wiki")))
    assert {path.name for path in (tmp_path / "plans").iterdir()} == {
        f"best_fit-64-0-{overhead}.json"
    }
    full = (whole["segments"] > 0).sum() + overhead * whole["segments"].max(1).sum()
    assert order.padding_by_component()["Wiki"] == pytest.approx(1 - full / (64 * n))


def test_held_out_rows(tmp_path):
    store = make_store(tmp_path)
    rows = heldout(store, "Law", length=64, overlap=0, overhead=3)
    made = rows.rows(0, len(rows))
    assert ((made["segments"] > 0).sum(1) + 3 * made["segments"].max(1) <= 64).all()
    tokens = made["tokens"][made["segments"] > 0]
    assert sorted(tokens) == sorted(np.concatenate(documents_of(store, "Law", "holdout")))


def test_states(tmp_path):
    store = make_store(tmp_path)
    plain = Order(store, OrderConfig(length=64, overlap=0))
    kept = Order(store, OrderConfig(length=64, overlap=0, overhead=2))
    assert "overhead" not in plain.state(10)  # states of before there was any still continue
    assert kept.resume(kept.state(10)) == 10
    with pytest.raises(StateDiffers, match="`overhead` was not saved and is now 2"):
        kept.resume(plain.state(10))
    with pytest.raises(StateDiffers):
        plain.resume(kept.state(10))


@pytest.mark.parametrize("overhead", [-1, 63])
def test_refused(tmp_path, overhead):
    with pytest.raises(ValueError, match=f"overhead {overhead} leaves"):
        Order(make_store(tmp_path), OrderConfig(length=64, overlap=0, overhead=overhead))
