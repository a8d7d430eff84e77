"""Tables read both ways: layouts against loops, and every way a table can miss something."""

import itertools

import numpy as np
import pytest

from gesso.export.files.tensors import FolderError, TensorSpec
from gesso.export.tables.tables import (
    Resize,
    Row,
    Slot,
    check,
    places,
    read_parameters,
    write_tensors,
)
from gesso.export.tables.transforms import copy

FLOAT32 = np.dtype(np.float32)


class InMemory:
    def __init__(self, tensors):
        self.tensors = tensors
        self.specs = {name: TensorSpec(x.dtype, x.shape, "memory") for name, x in tensors.items()}

    def read(self, name):
        return self.tensors[name]


Z, D, N, H = 2, 6, 3, 4
SLOTS = {each: Slot("ZDNH", (Z, D, N, H)) for each in ("q", "k", "v")}


def params(slots):
    random = np.random.default_rng(0)
    return {path: random.normal(size=slot.shape).astype(np.float32) for path, slot in slots.items()}


# GPT-NeoX: [head, 3, head dim] by embed. GPT-2: embed by [3, head, head dim].
@pytest.mark.parametrize(
    ("layout", "index"),
    [
        ("(N*H)D", lambda x, c, d, n, h: x[(n * 3 + c) * H + h, d]),
        ("D(*NH)", lambda x, c, d, n, h: x[d, (c * N + n) * H + h]),
        ("(*NH)D", lambda x, c, d, n, h: x[(c * N + n) * H + h, d]),
        ("*NHD", lambda x, c, d, n, h: x[c, n, h, d]),
    ],
)
def test_fused_layouts_place_every_value(layout, index):
    ours = params(SLOTS)
    found = places([Row("{q,k,v}", "h.{Z}.w", layout)], SLOTS)
    tensors = dict(write_tensors(found, ours, dtype=FLOAT32))
    assert list(tensors) == ["h.0.w", "h.1.w"]
    for z in range(Z):
        for c, name in enumerate("qkv"):
            for d, n, h in np.ndindex(D, N, H):
                assert index(tensors[f"h.{z}.w"], c, d, n, h) == ours[name][z, d, n, h]
    back = dict(read_parameters(found, InMemory(tensors)))
    assert all((back[name] == ours[name]).all() for name in "qkv")


def test_a_parameter_without_a_row_is_named():
    with pytest.raises(FolderError, match=r"parameter v ZDNH\[2,6,3,4\] has no tensor"):
        places([Row("{q,k}", "h.{Z}.w", "(N*H)D")], SLOTS)
    with pytest.raises(FolderError, match="v is in two rows"):
        rows = [Row("{q,k,v}", "h.{Z}.w", "(N*H)D"), Row("v", "h.{Z}.v", "DNH")]
        places(rows, SLOTS)
    with pytest.raises(FolderError, match=r"no parameter w, which h.{Z}.w is for"):
        places([Row("{q,k,v}", "h.{Z}.w", "(N*H)D"), Row("w", "h.{Z}.w", "D")], SLOTS)


def test_every_misfit_is_named_with_both_shapes():
    found = places([Row("{q,k,v}", "h.{Z}.w", "(N*H)D")], SLOTS)
    tensors = dict(write_tensors(found, params(SLOTS), dtype=FLOAT32))
    tensors["h.0.w"] = tensors["h.0.w"].T.copy()
    tensors["extra"] = np.ones((5, 2), np.float32)
    del tensors["h.1.w"]
    with pytest.raises(FolderError) as raised:
        check(found, InMemory(tensors))
    told = str(raised.value)
    assert "h.0.w has shape [6, 36], but q and k and v of this config needs [36, 6]" in told
    assert "h.1.w [36, 6] (q and k and v) is missing" in told
    assert "extra float32[5,2] in memory is not a parameter of this model" in told


def test_a_weight_is_a_float():
    found = places([Row("{q,k,v}", "h.{Z}.w", "(N*H)D")], SLOTS)
    tensors = {f"h.{z}.w": np.ones((36, 6), np.int64) for z in range(Z)}
    with pytest.raises(FolderError, match="h.0.w is int64, and a weight is a float"):
        check(found, InMemory(tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_number_are_refused_both_ways(value):
    slots = {"embed": Slot("VD", (5, 3))}
    found = places([Row("embed", "wte", "VD")], slots)
    x = np.ones((5, 3), np.float32)
    x[4, 1] = value
    with pytest.raises(
        FolderError, match=r"tensor wte float32\[5, 3\] holds 1 NaN or infinite values"
    ):
        dict(read_parameters(found, InMemory({"wte": x})))
    with pytest.raises(FolderError, match=r"tensor wte \(embed\)"):
        dict(write_tensors(found, {"embed": x}, dtype=FLOAT32))


def test_what_a_smaller_dtype_cannot_hold_is_refused():
    slots = {"embed": Slot("VD", (5, 3))}
    found = places([Row("embed", "wte", "VD")], slots)
    large = np.full((5, 3), 1e5, np.float32)
    with pytest.raises(FolderError, match="wte in float16"):
        dict(write_tensors(found, {"embed": large}, dtype=np.dtype(np.float16)))
    assert dict(write_tensors(found, {"embed": large}, dtype=FLOAT32))


def test_a_vocabulary_grows_by_the_mean_and_shrinks_by_cutting():
    slots = {"embed": Slot("VD", (8, 3)), "bias": Slot("V", (8,)), "places": Slot("SD", (5, 3))}
    rows = [Row("embed", "wte", "DV"), Row("bias", "b", "V"), Row("places", "wpe", "SD")]
    resized = {"V": Resize(6), "S": Resize(2, "repeat")}
    random = np.random.default_rng(0)
    theirs = {
        "wte": random.normal(size=(3, 6)).astype(np.float32),
        "b": random.normal(size=6).astype(np.float32),
        "wpe": random.normal(size=(2, 3)).astype(np.float32),
    }
    found = places(rows, slots, resized=resized)
    ours = dict(read_parameters(found, InMemory(theirs), resized=resized))
    assert (ours["embed"][:6] == theirs["wte"].T).all()
    np.testing.assert_allclose(ours["embed"][6:], np.tile(theirs["wte"].mean(1), (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(ours["bias"][6:], theirs["b"].mean(), rtol=1e-6)
    assert (ours["places"] == theirs["wpe"][[0, 1, 0, 1, 0]]).all()
    back = dict(write_tensors(places(rows, slots, resized=resized), ours, dtype=FLOAT32))
    assert all((back[name] == theirs[name]).all() for name in theirs)


def test_copies_from_any_layout_to_any_other():
    """Large enough to go along the slow side in stripes; odd sizes, all orders, parts of arrays."""
    random = np.random.default_rng(0)
    for shape in ((301, 257), (7, 131, 97), (3, 5, 61, 83), (90000,)):
        whole = random.normal(size=[n + 3 for n in shape]).astype(np.float32)
        for order in itertools.permutations(range(len(shape))):
            source = whole[tuple(slice(1, n + 1) for n in shape)].transpose(order)
            for back in (source.shape, source.shape[::-1]):
                target = np.zeros(back, np.float16)
                target = target if back == source.shape else target.transpose()
                copy(target, source)
                assert (target == source.astype(np.float16)).all()
    copy(target := np.zeros((), np.float32), np.float32(3) + np.zeros(()))
    assert target == 3
