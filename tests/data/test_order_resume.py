"""A saved data state continues where it stopped, or says which field is another one."""

import dataclasses
import json

import numpy as np
import pytest
from memory_store import make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.order import eras
from gesso.data.order.order import Order
from gesso.data.order.resume import StateDiffers

MIXTURE = MixtureConfig(kind="weights", values={"Code": 2, "Law": 1, "Wiki": 3})
CONFIG = OrderConfig(length=64, mixture=MIXTURE, skip=((20, 25),))
ROW = 90


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


def saved(store, config=CONFIG, row=ROW):
    return json.loads(json.dumps(Order(store, config).state(row)))


def mixture(**settings):
    return dataclasses.replace(MIXTURE, **settings)


@pytest.mark.parametrize("row", [0, 1, ROW, 700])
def test_continues(store, row):
    state = saved(store, row=row)
    assert state["next_row"] == row
    assert Order(store, CONFIG).resume(state) == row
    assert sum(each["rows"] for each in state["consumed"].values()) == row


def test_consumed_is_counted(store):
    order = Order(store, CONFIG)
    drawn = order.take(np.arange(ROW))["component"]
    consumed = order.consumption(ROW)
    assert [each["rows"] for each in consumed.values()] == np.bincount(drawn).tolist()
    order.rows(0, 700)
    rows = order._eras.epoch_rows(0)
    assert order.consumption(700)["Code"]["epoch"] == order.consumption(700)["Code"]["rows"] / rows
    # Before all eras are counted the tokens tell about as much.
    early = Order(store, CONFIG).consumption(700)["Code"]["epoch"]
    assert early == pytest.approx(order.consumption(700)["Code"]["epoch"], rel=0.1)


CHANGES = {
    "length": {"length": 65},
    "overlap": {"overlap": 0},
    "packing": {"packing": "concat"},
    "seed": {"seed": 1},
    "mixture": {"mixture": mixture(values={"Code": 2, "Law": 1, "Wiki": 4})},
    "mixture in the past": {"mixture": mixture(changes=((ROW - 1, {"Law": 1}),))},
    "skip in the past": {"skip": ((20, 25), (ROW - 5, ROW + 5))},
    "skip forgotten": {"skip": ()},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_order_is_refused(store, name):
    field = name.split()[0]
    state = saved(store)
    with pytest.raises(StateDiffers, match=f"`{field}` was .* and is now"):
        Order(store, dataclasses.replace(CONFIG, **CHANGES[name])).resume(state)


ALLOWED = {
    "mixture from the next row": {"mixture": mixture(changes=((ROW, {"Law": 1, "Math": 1}),))},
    "mixture later": {"mixture": mixture(changes=((ROW + 40, {"Law": 1}),))},
    "skip from the next row": {"skip": ((20, 25), (ROW, ROW + 5))},
    "patience": {"wait_seconds": 1},
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_what_lies_ahead_may_change(store, change):
    store.eras[0].documents["Math", "train"] = [np.arange(500, dtype=np.uint32)]
    state = saved(store)
    changed = Order(store, dataclasses.replace(CONFIG, **change))
    assert changed.resume(state) == ROW
    assert changed.resume(changed.state(ROW + 100)) == ROW + 100


def test_a_change_ahead_may_be_dropped_again(store):
    planned = dataclasses.replace(CONFIG, mixture=mixture(changes=((ROW + 40, {"Law": 1}),)))
    assert Order(store, CONFIG).resume(saved(store, planned)) == ROW
    with pytest.raises(StateDiffers, match="`mixture`"):
        Order(store, CONFIG).resume(saved(store, planned, ROW + 41))


def test_another_tokenizer_or_store_is_refused(store):
    state = saved(store)
    store.tokenizer_name = "sentencepiece"
    with pytest.raises(StateDiffers, match="`tokenizer`.*another tokenizer"):
        Order(store, CONFIG).resume(state)
    store.tokenizer_name = "bytes"
    store.seed = 7
    with pytest.raises(StateDiffers, match="`store`"):
        Order(store, CONFIG).resume(state)


def test_a_repaired_store_continues(store):
    state = saved(store)
    store.earlier_fingerprints, store.seed = (store.fingerprint,), 7
    assert Order(store, CONFIG).resume(state) == ROW


def test_an_edited_store_is_refused(store):
    state = saved(store)
    last = Order(store, CONFIG).take(np.array([ROW - 1]))["tokens"][0, 0]
    for era in store.eras:
        for documents in era.documents.values():
            for document in documents:
                document[document == last] += 1
    with pytest.raises(StateDiffers, match="`canary`.*have changed"):
        Order(store, CONFIG).resume(state)


def test_another_way_of_drawing_is_refused(store):
    state = saved(store)
    state["consumed"]["Law"]["rows"] += 1
    with pytest.raises(StateDiffers, match="`consumed`"):
        Order(store, CONFIG).resume(state)


@pytest.mark.parametrize("field", ["version", "block", "tokenizer", "canary", "consumed"])
def test_a_field_that_was_not_saved_is_refused(store, field):
    state = saved(store)
    del state[field]
    with pytest.raises(StateDiffers, match=f"`{field}` was not saved"):
        Order(store, CONFIG).resume(state)


@pytest.mark.parametrize("state", [{}, {"next_row": "x"}, {"next_row": -1}])
def test_no_state_at_all_is_refused(store, state):
    with pytest.raises(StateDiffers, match="not a data state|`"):
        Order(store, CONFIG).resume(state)


def test_a_second_start_counts_no_era_again(store, monkeypatch):
    first = Order(store, CONFIG).rows(0, 700)
    counted = []
    monkeypatch.setattr(eras, "measure", lambda *a, **k: counted.append(a) or (0, 0))
    assert np.array_equal(Order(store, CONFIG).rows(0, 700)["tokens"], first["tokens"])
    assert not counted
    monkeypatch.undo()
    # An era whose content changed is counted again, and so is another way to pack.
    store.eras[1].documents["Law", "train"].append(np.arange(640, dtype=np.uint32))
    again = Order(store, CONFIG)
    again.rows(0, 900)
    fresh = Order(dataclasses.replace(store, folder=store.folder / "elsewhere"), CONFIG)
    fresh.rows(0, 900)
    assert again._eras.epoch_rows(1) == fresh._eras.epoch_rows(1)


DAMAGES = [
    *("", "{", "[]", '{"format": "best_fit/1", "eras": []}'),
    *('{"format": "best_fit/1", "eras": {"0": 5}}', '{"format": "best_fit/0", "eras": {}}'),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_counts_are_counted_again(store, damage):
    first = Order(store, CONFIG).rows(0, 700)
    (path,) = store.folder.glob("plans/*.json")
    path.write_text(damage)
    assert np.array_equal(Order(store, CONFIG).rows(0, 700)["tokens"], first["tokens"])


def test_edited_counts_are_found_out(store):
    Order(store, CONFIG).rows(0, 700)
    (path,) = store.folder.glob("plans/*.json")
    record = json.loads(path.read_text())
    record["eras"]["0"]["counts"]["Code"][0] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"packs into .* rows, but .*best_fit-64-1\.json"):
        Order(store, CONFIG).rows(0, 700)


def test_a_store_that_cannot_be_written_to(store, tmp_path, monkeypatch):
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path / "cache"))
    (store.folder / "plans").write_text("a file where the folder should be")
    order = Order(store, CONFIG)
    assert len(order.rows(0, 700)["row"]) == 700
    assert len(list((tmp_path / "cache").rglob("best_fit-64-1.json"))) == 1
