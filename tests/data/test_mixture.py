"""Mixtures: exact counts, cursors without gaps or repeats, and refusals that say what to do."""

import numpy as np
import pytest
from memory_store import MemoryEra, make_store

from gesso.data.config import MixtureConfig
from gesso.data.order.mixture import BLOCK, Mixture, MixtureError, apportion, resolve
from gesso.data.order.pile import PILE

BASE = {"Code": 3.0, "Law": 1.0, "Wiki": 6.5}
MIXTURES = {
    "constant": ((0, BASE),),
    "changed inside a block": ((0, BASE), (100, {"Code": 1.0, "Law": 5.0, "Wiki": 1.0})),
    "changed twice": ((0, BASE), (1, {"Law": 1.0}), (BLOCK + 12_345, {"Code": 1.0, "Math": 2.0})),
}


@pytest.mark.parametrize("segments", MIXTURES.values(), ids=MIXTURES)
def test_every_component_counts_up_without_gap_or_repeat(segments):
    mixture = Mixture(segments, seed=0)
    component, index = mixture.locate(np.arange(2 * BLOCK + 500))
    for c in range(len(mixture.components)):
        mine = index[component == c]
        assert np.array_equal(mine, np.arange(len(mine)))


@pytest.mark.parametrize("segments", MIXTURES.values(), ids=MIXTURES)
def test_consumed_counts_the_rows_before(segments):
    mixture = Mixture(segments, seed=0)
    component, _ = mixture.locate(np.arange(2 * BLOCK + 500))
    for row in (0, 1, 99, 100, 101, BLOCK, BLOCK + 12_345, BLOCK + 12_346, 2 * BLOCK + 500):
        counted = np.bincount(component[:row], minlength=len(mixture.components))
        assert mixture.consumption(row).tolist() == counted.tolist()


def test_rows_are_located_alike_in_any_grouping():
    mixture = Mixture(MIXTURES["changed twice"], seed=0)
    rows = np.array([BLOCK + 12_345, 5, 0, BLOCK, 1, BLOCK + 12_344, 3 * BLOCK])
    together = mixture.locate(rows)
    alone = [mixture.locate(rows[i : i + 1]) for i in range(len(rows))]
    assert together[0].tolist() == [int(component[0]) for component, _ in alone]
    assert together[1].tolist() == [int(index[0]) for _, index in alone]


def test_a_change_leaves_the_rows_before_it_alone():
    rows = np.arange(BLOCK + 100)
    before = Mixture(((0, BASE),), seed=0).locate(rows)
    changed = Mixture(((0, BASE), (BLOCK + 50, {"Law": 1.0})), seed=0).locate(rows)
    assert np.array_equal(before[0][:-50], changed[0][:-50])
    assert np.array_equal(before[1][:-50], changed[1][:-50])


def test_the_order_depends_on_seed_and_block():
    first, _ = Mixture(((0, BASE),), seed=0).locate(np.arange(2 * BLOCK))
    other, _ = Mixture(((0, BASE),), seed=1).locate(np.arange(BLOCK))
    assert (first[:BLOCK] != first[BLOCK:]).any()
    assert (first[:BLOCK] != other).any()


def test_a_block_is_apportioned_exactly():
    weights = np.array([PILE[name].gibibytes * PILE[name].epochs for name in sorted(PILE)])
    counts = apportion(weights)
    assert counts.sum() == BLOCK
    # At most one row off: half a percent of the smallest of the 22 components.
    assert np.abs(counts - weights / weights.sum() * BLOCK).max() < 1
    assert np.abs(counts / (weights / weights.sum() * BLOCK) - 1).max() < 0.005


def test_a_tiny_component_is_drawn_all_the_same():
    counts = apportion(np.array([1e12, 1.0, 0.0, 1.0]))
    assert counts.tolist() == [BLOCK - 2, 1, 0, 1]


def test_kinds(tmp_path):
    store = make_store(tmp_path)
    tokens = {name: splits["train"]["tokens"] for name, splits in store.totals().items()}

    def shares(**settings):
        weights = resolve(MixtureConfig(**settings), store)[0][1]
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    total = sum(tokens.values())
    assert shares() == pytest.approx({name: n / total for name, n in tokens.items()})
    assert shares(kind="weights", values={"Law": 1, "Code": 3}) == {"Law": 0.25, "Code": 0.75}
    twice = shares(kind="epochs", values={"Law": 2, "Code": 1})
    assert twice["Law"] / twice["Code"] == pytest.approx(2 * tokens["Law"] / tokens["Code"])
    flat = shares(kind="temperature", temperature=2.0)
    assert flat["Law"] / flat["Code"] == pytest.approx((tokens["Law"] / tokens["Code"]) ** 0.5)


def test_the_pile_preset(tmp_path):
    names = ("Enron Emails", "Pile-CC", "Ubuntu IRC")
    store = make_store(tmp_path, components=names)
    weights = resolve(MixtureConfig(kind="weights", preset="pile"), store)[0][1]
    assert weights == {name: PILE[name].gibibytes * PILE[name].epochs for name in names}
    epochs = resolve(MixtureConfig(kind="epochs", preset="pile"), store)[0][1]
    tokens = store.totals()
    for name in names:
        assert epochs[name] == tokens[name]["train"]["tokens"] * PILE[name].epochs
    store.complete = False
    assert set(resolve(MixtureConfig(kind="weights", preset="pile"), store)[0][1]) == set(PILE)
    with pytest.raises(MixtureError, match="does not know these components.*Wiki"):
        resolve(MixtureConfig(kind="weights", preset="pile"), make_store(tmp_path))


REFUSED = {
    "unknown": ({"kind": "weights", "values": {"Lew": 1}}, "'Lew' is not in.*mean 'Law'"),
    "unknown in a change": ({"changes": ((5, {"Lew": 1}),)}, "'Lew' is not in.*mean 'Law'"),
    "unknown epochs": ({"kind": "epochs", "values": {"Lew": 1}}, "mean 'Law'"),
    "held-out only": ({"kind": "weights", "values": {"Empty": 1}}, "no tokens to train on"),
    "zero": ({"kind": "weights", "values": {"Law": 0, "Code": 1}}, "not above 0.*Law"),
    "negative": ({"kind": "weights", "values": {"Law": -1}}, "not above 0.*Law"),
    "nan": ({"kind": "weights", "values": {"Law": float("nan")}}, "not above 0.*Law"),
    "zero epochs": ({"kind": "epochs", "values": {"Law": 0}}, "not above 0.*Law"),
    "none": ({"kind": "weights"}, "needs values"),
    "ignored values": ({"values": {"Law": 1}}, "takes no values"),
    "ignored preset": ({"preset": "pile"}, "takes no values or preset"),
    "ignored temperature": ({"temperature": 2.0}, "has no effect"),
    "temperature": ({"kind": "temperature", "temperature": 0.0}, "above 0"),
    "both": ({"kind": "weights", "preset": "pile", "values": {"Law": 1}}, "not both"),
    "change at 0": ({"changes": ((0, {"Law": 1}),)}, "growing rows above 0"),
    "unsorted": ({"changes": ((9, {"Law": 1}), (5, {"Law": 1}))}, "growing rows above 0"),
    "empty change": ({"changes": ((9, {}),)}, "names no component"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, settings, message):
    store = make_store(tmp_path)
    store.eras[0].documents["Empty", "holdout"] = [np.arange(5, dtype=np.uint32)]
    with pytest.raises(MixtureError, match=message):
        Mixture(resolve(MixtureConfig(**settings), store), seed=0)


@pytest.mark.parametrize("kind", ["natural", "temperature", "epochs"])
def test_kinds_that_count_tokens_need_a_finished_store(tmp_path, kind):
    store = make_store(tmp_path)
    store.complete = False
    values = {"Law": 1.0} if kind == "epochs" else {}
    with pytest.raises(MixtureError, match="still being built.*weights"):
        resolve(MixtureConfig(kind=kind, values=values), store)


def test_a_store_that_is_being_built_may_still_get_a_component(tmp_path):
    store = make_store(tmp_path)
    store.complete = False
    resolve(MixtureConfig(kind="weights", values={"Law": 1, "Physics": 1}), store)
    with pytest.raises(MixtureError, match="'Wiki_' is not in.*mean 'Wiki'"):
        resolve(MixtureConfig(kind="weights", values={"Wiki_": 1}), store)


def test_an_empty_store_is_refused(tmp_path):
    store = make_store(tmp_path)
    store.eras = [MemoryEra({})]
    with pytest.raises(MixtureError, match="no tokens to train on"):
        resolve(MixtureConfig(), store)
