"""The data order: rows do not depend on who asks, and every token is used exactly once an epoch."""

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from memory_store import documents_of, make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.open import rows
from gesso.data.order.eras import EmptyComponent, Stopped
from gesso.data.order.order import Order
from gesso.data.store.errors import BuildFailed, StoreBehind

LENGTH = 64
WEIGHTS = MixtureConfig(kind="weights", values={"Code": 2, "Law": 1, "Wiki": 3})
NAMES = ("tokens", "segments", "positions", "component", "row")


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in NAMES)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_rows_do_not_depend_on_the_batch_split(store, packing):
    config = OrderConfig(length=LENGTH, packing=packing)
    whole = Order(store, config).rows(0, 240)
    for n in (1, 7, 80):
        order = Order(store, config)
        assert same(whole, joined([order.rows(i, min(n, 240 - i)) for i in range(0, 240, n)]))
    assert same({name: whole[name][100:110] for name in NAMES}, rows(store, config, 100, 10))


@pytest.mark.parametrize("hosts", [2, 3, 8])
def test_rows_do_not_depend_on_the_host_count(store, hosts):
    config = OrderConfig(length=LENGTH)
    whole = Order(store, config).rows(0, 48)
    each = [Order(store, config).take(np.arange(host, 48, hosts)) for host in range(hosts)]
    interleaved = joined(each)
    back = np.argsort(interleaved["row"])
    assert same(whole, {name: array[back] for name, array in interleaved.items()})


def epoch_of(order, component, epoch):
    """All rows of one epoch of a component, in the order they are drawn."""
    c = order.components.index(component)
    order.rows(0, 400)  # counts all eras: the store holds fewer rows
    n = order._eras.epoch_rows(c)
    found, at = [], 0
    while sum(map(len, found)) < (epoch + 1) * n:
        located, _ = order.mixture.locate(np.arange(at, at + 512))
        found.append(at + np.flatnonzero(located == c))
        at += 512
    return order.take(np.concatenate(found)[epoch * n : (epoch + 1) * n])


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("component", ["Code", "Wiki"])
def test_every_token_once_an_epoch(store, component, overlap, epoch):
    order = Order(store, OrderConfig(length=LENGTH, overlap=overlap, mixture=WEIGHTS))
    made = epoch_of(order, component, epoch)
    documents = documents_of(store, component)
    tokens, segments = made["tokens"], made["segments"]
    if not overlap:
        assert sorted(tokens[segments > 0]) == sorted(np.concatenate(documents))
        return
    # A target is a token whose predecessor lies in the same segment of the row.
    is_target = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
    targets, inputs = tokens[:, 1:][is_target], tokens[:, :-1][is_target]
    assert sorted(targets) == sorted(np.concatenate([each[1:] for each in documents]))
    assert is_target.sum() == sum(len(each) - 1 for each in documents)
    # No token is unique to the store twice, so a successor proves that no document was mixed in.
    assert np.array_equal(targets, inputs + 1)


def test_positions_restart_with_the_segments(store):
    made = Order(store, OrderConfig(length=LENGTH)).rows(0, 200)
    tokens, segments, positions = (made[name] for name in ("tokens", "segments", "positions"))
    starts = {int(each[0]) for name in store.components for each in documents_of(store, name)}
    inside = segments[:, 1:] == segments[:, :-1]
    used = segments[:, 1:] > 0
    assert np.array_equal(positions[:, 1:][inside & used], positions[:, :-1][inside & used] + 1)
    assert (positions[:, 1:][~inside] == 0).all()
    assert (positions[:, 0] == 0).all()
    assert (segments[:, 0] == 1).all()
    assert (segments[:, 1:] - segments[:, :-1])[~inside & used].tolist() == [1] * (
        (~inside & used).sum()
    )
    # A piece in the middle of a row always starts a document, or continues one that is longer.
    short = {d for n in store.components for e in documents_of(store, n) if len(e) <= 64 for d in e}
    begin = tokens[:, 1:][~inside & used]
    assert all(int(token) in starts for token in begin if token in short)


def test_an_epoch_has_its_own_order(store):
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS))
    first, second = (epoch_of(order, "Wiki", epoch)["tokens"] for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert sorted(map(bytes, first)) == sorted(map(bytes, second))


def test_the_order_depends_on_the_seed(store):
    first = Order(store, OrderConfig(length=LENGTH, seed=0)).rows(0, 50)
    other = Order(store, OrderConfig(length=LENGTH, seed=1)).rows(0, 50)
    assert not same(first, other)


def test_threads_share_an_order(store):
    expected = Order(store, OrderConfig(length=LENGTH)).rows(0, 480)
    order = Order(store, OrderConfig(length=LENGTH))
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: order.rows(i, 10), range(0, 480, 10)))
    assert same(expected, joined(got))


def test_padding_is_reported(store):
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS))
    assert 0 < order.padding() < 0.2  # of the first era
    empty = {name: epoch_of(order, name, 0)["segments"] == 0 for name in order.components}
    whole = np.concatenate(list(empty.values()))
    assert order.padding() == pytest.approx(whole.mean())
    assert order.padding_by_component() == pytest.approx({n: e.mean() for n, e in empty.items()})


def test_padding_of_a_store_that_has_no_era_yet(store):
    store.eras, store.complete = [], False
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS))
    assert np.isnan(order.padding())


def test_a_store_that_is_being_built_gives_the_same_rows(store):
    config = OrderConfig(length=LENGTH, mixture=WEIGHTS, wait_seconds=0)
    finished = Order(store, config).rows(0, 300)
    growing = make_store(store.folder / "growing")
    eras, growing.eras, growing.complete = growing.eras, [], False
    order, got = Order(growing, config), []
    while len(got) < 300:
        try:
            got.append(order.rows(len(got), 1))
        except StoreBehind:
            assert growing.eras != eras
            growing.eras.append(eras[len(growing.eras)])
            growing.complete = growing.eras == eras
    assert same(finished, joined(got))


def test_waits_for_a_builder_and_counts_it(store):
    store.complete, last = False, store.eras.pop()
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS, wait_seconds=60))
    order.rows(0, 10)
    assert order.seconds_waited == 0

    def finish():
        store.eras.append(last)
        store.complete = True

    builder = threading.Timer(0.4, finish)
    builder.start()
    order.rows(0, 300)
    builder.join()
    assert 0.2 < order.seconds_waited < 30


def test_gives_up_when_the_builder_stays_behind(store):
    store.complete = False
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS, wait_seconds=0.3))
    with pytest.raises(StoreBehind):
        order.rows(0, 1000)
    assert order.seconds_waited >= 0.3


def test_a_failed_build_is_raised_at_once(store):
    store.complete = False
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS, wait_seconds=60))
    threading.Timer(0.3, lambda: setattr(store, "failure", "disk full")).start()
    with pytest.raises(BuildFailed, match="disk full"):
        order.rows(0, 1000)
    assert order.seconds_waited < 30


def test_a_wait_can_be_stopped(store):
    store.complete = False
    order = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS, wait_seconds=60))
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Stopped):
        order.take(np.arange(1000), stop=stop)


def test_a_component_that_never_came(store):
    values = {"Code": 1, "Physics": 1}
    mixture = MixtureConfig(kind="weights", values=values)
    store.complete = False
    order = Order(store, OrderConfig(length=LENGTH, mixture=mixture))
    store.complete = True
    with pytest.raises(EmptyComponent, match="Physics"):
        order.rows(0, 10)


def test_skipped_ranges_are_jumped_over(store):
    skip = ((10, 13), (12, 20), (40, 41))
    order = Order(store, OrderConfig(length=LENGTH, skip=skip))
    plain = Order(store, OrderConfig(length=LENGTH))
    expected = [row for row in range(60) if not (10 <= row < 20 or row == 40)]
    assert order.rows(0, 49)["row"].tolist() == expected
    assert order.visit(15, 3).tolist() == [20, 21, 22]
    assert order.visit(20, 3).tolist() == [20, 21, 22]
    assert order.visit(38, 4).tolist() == [38, 39, 41, 42]
    assert same(order.rows(0, 49), plain.take(np.array(expected)))
    batches, at = [], 0
    for _ in range(7):
        batches.append(order.rows(at, 7))
        at = int(batches[-1]["row"][-1]) + 1
    assert same(joined(batches), order.rows(0, 49))


def test_a_later_change_of_the_mixture_leaves_earlier_rows(store):
    change = MixtureConfig(
        kind="weights", values=WEIGHTS.values, changes=((77, {"Law": 5, "Code": 1}),)
    )
    plain = Order(store, OrderConfig(length=LENGTH, mixture=WEIGHTS)).rows(0, 200)
    changed = Order(store, OrderConfig(length=LENGTH, mixture=change)).rows(0, 200)
    assert np.array_equal(plain["tokens"][:77], changed["tokens"][:77])
    assert (changed["component"][77:] != 2).all()
    # What Law and Code give next is what they would have given next.
    for c in (0, 1):
        a, b = (made["tokens"][made["component"] == c] for made in (plain, changed))
        n = min(len(a), len(b))
        assert np.array_equal(a[:n], b[:n])


BAD = {
    "length": ({"length": 1}, "at least 2 tokens"),
    "overlap": ({"length": 8, "overlap": 2}, "overlap is 0 or 1"),
    "packing": ({"length": 8, "packing": "first_fit"}, "packing is one of"),
    "wait": ({"length": 8, "wait_seconds": -1}, "wait_seconds"),
    "skip": ({"length": 8, "skip": ((5, 5),)}, "skipped range"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_refused(store, settings, message):
    with pytest.raises(ValueError, match=message):
        Order(store, OrderConfig(**settings))


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_golden(store, packing):
    # The store's documents come from numpy's random streams, so fixed lengths stand in for them.
    for e, era in enumerate(store.eras):
        for c, name in enumerate(store.components):
            sizes = np.arange(30 + 10 * c) * (7919 + e) % 211 + 1
            stream = np.arange(sizes.sum(), dtype=np.uint32) + 1000 * c + 7 * e
            era.documents[name, "train"] = np.split(stream, np.cumsum(sizes)[:-1])
    config = OrderConfig(length=LENGTH, seed=1, packing=packing, mixture=WEIGHTS)
    made = Order(store, config).rows(0, 512)
    crc = 0
    for name in ("tokens", "segments", "positions", "component"):
        crc = zlib.crc32(made[name].astype("<i4").tobytes(), crc)
    assert crc == GOLDEN[packing], (
        "the data order has changed: no run can be continued. Only accept a new number together"
        " with a new VERSION in data/order/order.py and a line in the change log"
    )


GOLDEN = {"best_fit": 3367686867, "concat": 3714124757}
