"""Stream order: every window once, each place of a batch reading on where it was."""

import numpy as np
import pytest
from memory_store import make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.order.mixture import MixtureError
from gesso.data.order.order import Order
from gesso.data.order.resume import StateDiffers
from gesso.data.order.streams import Streams, stretches

LENGTH, STREAMS = 17, 4
LAW = MixtureConfig(kind="weights", values={"Law": 1.0})


def order_of(store, *, mixture=LAW, streams=STREAMS, **settings):
    config = OrderConfig(
        length=LENGTH, packing="stream", streams=streams, mixture=mixture, **settings
    )
    return Order(store, config)


@pytest.mark.parametrize(("windows", "streams"), [(12, 4), (13, 4), (3, 4), (0, 4), (15, 1)])
def test_every_window_is_read_once_in_stretches(windows, streams):
    found = stretches(windows, streams=streams)
    assert sorted(found) == list(range(windows))
    for stream in range(streams):
        assert (np.diff(found[stream::streams]) == 1).all()
    lengths = {len(found[stream::streams]) for stream in range(streams)}
    assert max(lengths) - min(lengths) <= 1


def test_the_places_of_a_batch_read_on(tmp_path):
    """Within an era the next batch's row of the same place begins with the last row's last token,
    and all rows together hold every token."""
    store = make_store(tmp_path)
    era = store.era(0)
    text = era.read("Law", "train", [0], [int(era.lengths("Law", "train").sum())])
    n = -(-(len(text) - 1) // (LENGTH - 1))
    rows = order_of(store).rows(0, n)
    for i in range(n - STREAMS):
        a, b = rows["tokens"][i], rows["tokens"][i + STREAMS]
        assert a[-1] == b[0]
    windows = {tuple(text[i : i + LENGTH]) for i in range(0, len(text) - 1, LENGTH - 1)}
    read = [row[:k] for row, k in zip(rows["tokens"], (rows["segments"] > 0).sum(1), strict=True)]
    assert {tuple(row) for row in read} == windows
    assert sum(len(row) - 1 for row in read) == len(text) - 1


def test_places_belong_to_components_in_proportion():
    streams = Streams(((0, {"Law": 1.0, "Code": 6.0, "Wiki": 1.0}),), streams=8)
    assert dict(zip(streams.components, streams.counts, strict=True)) == {
        "Code": 6,
        "Law": 1,
        "Wiki": 1,
    }
    component, index = streams.locate(np.arange(800))
    assert (component.reshape(100, 8) == component[:8]).all()
    for c in range(3):
        assert index[component == c].tolist() == list(range(100 * streams.counts[c]))
    for row in (0, 5, 8, 799):
        assert (
            streams.consumption(row).tolist() == np.bincount(component[:row], minlength=3).tolist()
        )


def test_rows_depend_on_their_number_alone(tmp_path):
    store = make_store(tmp_path)
    mixture = MixtureConfig(kind="weights", values={"Code": 2, "Law": 1, "Wiki": 3})
    whole = order_of(store, mixture=mixture, streams=6).rows(0, 120)
    order = order_of(store, mixture=mixture, streams=6)
    for rows in (np.arange(40, 60), np.array([119, 3, 77])):
        taken = order.take(rows)
        for name in ("tokens", "segments", "component"):
            assert (taken[name] == whole[name][rows]).all()


def test_a_state_continues_with_as_many_streams_only(tmp_path):
    store = make_store(tmp_path)
    state = order_of(store).state(32)
    assert order_of(store).resume(state) == 32
    with pytest.raises(StateDiffers, match="streams|mixture"):
        order_of(store, streams=8).resume(state)


def test_what_cannot_be_is_refused(tmp_path):
    store = make_store(tmp_path)
    with pytest.raises(ValueError, match="packing 'stream' and 0 streams"):
        order_of(store, streams=0)
    with pytest.raises(ValueError, match="packing 'concat' and 4 streams"):
        Order(store, OrderConfig(length=LENGTH, packing="concat", streams=4))
    with pytest.raises(ValueError, match="must be a multiple"):
        order_of(store, skip=((0, 6),))
    assert order_of(store, skip=((4, 8),)).visit(2, 4).tolist() == [2, 3, 8, 9]
    three = MixtureConfig(kind="weights", values={"Code": 2, "Law": 1, "Wiki": 3})
    with pytest.raises(MixtureError, match="3 components need as many streams"):
        order_of(store, mixture=three, streams=2)
    changing = MixtureConfig(kind="weights", values={"Law": 1}, changes=((64, {"Code": 1.0}),))
    with pytest.raises(MixtureError, match="cannot change under streams"):
        order_of(store, mixture=changing)
