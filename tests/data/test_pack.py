"""Packing: nothing lost, nothing cut that fits, hardly any padding."""

import zlib

import numpy as np
import pytest

from gesso.data.order.pack import assemble, best_fit, gather, make_plan, measure, pieces

LENGTHS = [2, 3, 16, 65]


def documents(count, *, mean=30.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.lognormal(np.log(mean), 1.2, count).astype(np.int64)


def one_at_a_time(lengths, length):
    """Best-fit-decreasing as textbooks have it: the free space of every row at the end."""
    free: list[int] = []
    for piece in sorted(lengths.tolist(), reverse=True):
        fitting = [space for space in free if space >= piece]
        space = min(fitting) if fitting else length
        if fitting:
            free.remove(space)
        free.append(space - piece)
    return sorted(free)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_best_fit_is_best_fit(length, count):
    _, lengths = pieces(documents(count), length=length, overlap=1)
    row, rows = best_fit(lengths, length=length)
    used = np.bincount(row, weights=lengths, minlength=rows)
    assert sorted(length - used) == one_at_a_time(lengths, length)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("length", LENGTHS)
def test_pieces_cover_every_document(length, overlap):
    lengths = documents(200)
    starts, sizes = pieces(lengths, length=length, overlap=overlap)
    seen = np.zeros(lengths.sum(), int)
    targets = np.zeros(lengths.sum(), int)
    for start, size in zip(starts, sizes, strict=True):
        assert overlap < size <= length or size == 1
        seen[start : start + size] += 1
        targets[start + 1 : start + size] += 1
    begins = (np.cumsum(lengths) - lengths)[lengths > 0]
    if overlap:
        expected = np.ones(len(targets), int)
        expected[begins] = 0
        assert np.array_equal(targets, expected)
        assert seen.min() == 1
    else:
        assert (seen == 1).all()
    fitting = lengths[(lengths > 0) & (lengths <= length)]
    cut = lengths[lengths > length]
    stride = length - overlap
    assert len(sizes) == len(fitting) + np.ceil((cut - overlap) / stride).sum()


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_measure_is_the_plan(count, overlap, packing):
    shape = {"length": 65, "overlap": overlap, "packing": packing}
    plan = make_plan(documents(count), **shape)
    assert measure(documents(count), **shape) == (plan.rows, plan.tokens)


def test_a_plan_numbers_rows_by_their_first_piece():
    plan = make_plan(documents(500), length=65, overlap=1, packing="best_fit")
    first = plan.starts[plan.first[:-1]]
    assert (np.diff(first) > 0).all()
    for begin, end in zip(plan.first[:-1], plan.first[1:], strict=True):
        assert (np.diff(plan.starts[begin:end]) > 0).all()


@pytest.mark.parametrize("overlap", [0, 1])
def test_concat_is_one_stream_cut_into_windows(overlap):
    lengths = documents(100)
    plan = make_plan(lengths, length=16, overlap=overlap, packing="concat")
    stream = np.arange(lengths.sum())
    step = 16 - overlap
    windows = [stream[i : i + 16] for i in range(0, len(stream) - overlap, step)]
    assert plan.starts.tolist() == [window[0] for window in windows]
    assert plan.lengths.tolist() == [len(window) for window in windows]


def test_best_fit_hardly_pads():
    lengths = documents(20_000, mean=200)
    rows, tokens = measure(lengths, length=2049, overlap=1, packing="best_fit")
    assert 1 - tokens / (rows * 2049) < 0.001


@pytest.mark.parametrize("length", [16, 65])
def test_assembled_rows(length):
    lengths = documents(300)
    stream = np.arange(lengths.sum(), dtype=np.uint32) + 1
    plan = make_plan(lengths, length=length, overlap=1, packing="best_fit")
    rows = np.arange(plan.rows)[::-3]
    starts, sizes, count = gather(plan, rows)
    data = np.concatenate([stream[a : a + n] for a, n in zip(starts, sizes, strict=True)])
    made = assemble(data, sizes, count, length=length)
    for at, row in enumerate(rows):
        tokens, segments, positions = [], [], []
        for number, piece in enumerate(range(plan.first[row], plan.first[row + 1]), 1):
            n = plan.lengths[piece]
            tokens += stream[plan.starts[piece] : plan.starts[piece] + n].tolist()
            segments += [number] * n
            positions += range(n)
        padding = [0] * (length - len(tokens))
        assert made["tokens"][at].tolist() == tokens + padding
        assert made["segments"][at].tolist() == segments + padding
        assert made["positions"][at].tolist() == positions + padding
    assert {array.dtype for array in made.values()} == {np.dtype(np.int32)}


def test_golden():
    lengths = np.arange(1000) * 7919 % 613 + 1  # numpy's random streams may change
    plan = make_plan(lengths, length=128, overlap=1, packing="best_fit")
    parts = (plan.starts.astype("<i8"), plan.lengths.astype("<i4"), plan.first.astype("<i8"))
    crc = 0
    for part in parts:
        crc = zlib.crc32(part.tobytes(), crc)
    assert (plan.rows, crc) == GOLDEN, (
        "best-fit rows have changed: every training order changes with them. Only accept new"
        " numbers together with a new format in data/order/eras.py FORMAT"
    )


GOLDEN = (2417, 1278388709)
