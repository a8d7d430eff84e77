"""Labelled examples in rows: framed, each a segment of its own, and their targets."""

import numpy as np

from gesso.data.config import FrameConfig
from gesso.data.labelled.items import Items
from gesso.data.labelled.store import TaskStore
from gesso.data.order.base import Rows


def sizes(items: Items, frame: FrameConfig, *, length: int) -> np.ndarray:
    """What each item counts for where rows are packed, i64[n]: so much that no row gets more than
    frame.per_row of them."""
    if frame.chunks > 1:
        return np.full(len(items), length)
    return np.maximum(items.size, -(-length // frame.per_row))


def rows_of(
    store: TaskStore,
    items: Items,
    chosen: np.ndarray,
    count: np.ndarray,
    *,
    length: int,
    frame: FrameConfig,
) -> Rows:
    """Rows out of items (i64, row by row; count i64[n] to a row), of `length` tokens each:

    "tokens", "segments" (0 = padding, else the segment of the row from 1), "positions" (restart at
    each segment), "token_types" (1 from the second text on): i32[n, length].
    "item": i32[n, P], -1 where there is none (P: frame.per_row); "begins", "ends": i32[n, P], the
    places of each segment's first and last token (of chunks, P being frame.chunks, -1 without one).
    classify and regress: "labels" i32 or f32[n, P]. tag: "tags" i32[n, length], -1 where there is
    no target. qa: "spans" i32[n, P, 2], places of the answer's first and last token, that of the
    segment's first where the window has none; "context" i32[n, length]: 1 in a context, 2 where no
    other window shows more around the token, 0 elsewhere.
    """  # fmt: skip
    n, places = len(count), max(frame.per_row, frame.chunks)
    wide = ("tokens", "segments", "positions", "token_types", "tags", "context")
    made: Rows = {name: np.zeros((n, length), np.int32) for name in wide}
    made["tags"] -= 1
    made |= {name: np.full((n, places), -1, np.int32) for name in ("begins", "ends")}
    made["item"] = np.full((n, frame.per_row), -1, np.int32)
    dtype = store.leaves["labels"].dtype if "labels" in store.leaves else np.dtype(np.int32)
    made["labels"] = np.zeros((n, frame.per_row), dtype)
    made["spans"] = np.zeros((n, frame.per_row, 2), np.int32)
    first = np.cumsum(count) - count
    for row in range(n):
        at = 0
        for place, item in enumerate(chosen[first[row] : first[row] + count[row]].tolist()):
            made["item"][row, place] = item
            if "labels" in store.leaves:
                made["labels"][row, place] = store.leaves["labels"][items.example[item]]
            if frame.chunks > 1:
                _chunks(store, items, item, made, row, length=length, frame=frame)
            else:
                at = _segment(store, items, item, made, row, place, at, frame)
    unused = {"classify": ("tags", "spans", "context"), "regress": ("tags", "spans", "context"),
              "tag": ("labels", "spans", "context"), "qa": ("labels", "tags")}  # fmt: skip
    return {name: leaf for name, leaf in made.items() if name not in unused[store.kind]}


def _segment(
    store: TaskStore, items: Items, item: int, made: Rows, row: int, place: int, at: int,
    frame: FrameConfig,
) -> int:  # fmt: skip
    """Write an item from place `at` of a row on; the place behind it."""
    example = int(items.example[item])
    begin, parts = at, [np.array(frame.first, np.int64)]
    at += len(frame.first)
    for text in range(store.texts):
        if text:
            parts.append(np.array(frame.between, np.int64))
            at += len(frame.between)
        second = at
        for start, size in items.runs[item, text].tolist():
            if not size:
                continue
            source = int(store.starts[example, text]) + start
            parts.append(store.read(source, size))
            if store.kind == "tag":
                made["tags"][row, at : at + size] = store.leaves["tags"][source : source + size]
            at += size
    parts.append(np.array(frame.last, np.int64))
    end = at + len(frame.last)
    made["tokens"][row, begin:end] = np.concatenate(parts)
    made["segments"][row, begin:end] = place + 1
    made["positions"][row, begin:end] = np.arange(end - begin)
    made["begins"][row, place], made["ends"][row, place] = begin, end - 1
    if store.texts == 2:
        made["token_types"][row, second:end] = 1
    if store.kind == "qa":
        _answer(store, items, item, made, row, place, begin, second)
    return end


def _answer(
    store: TaskStore,
    items: Items,
    item: int,
    made: Rows,
    row: int,
    place: int,
    begin: int,
    context: int,
) -> None:
    start, size = items.runs[item, 1, 0].tolist()
    first, last = store.leaves["answers"][items.example[item]].tolist()
    whole = first >= start and last < start + size and first >= 0
    made["spans"][row, place] = (
        (context + first - start, context + last - start) if whole else (begin, begin)
    )
    made["context"][row, context : context + size] = 1 + _widest(items, item)


def _widest(items: Items, item: int) -> np.ndarray:
    """Which tokens of a window no other window of the example shows with more around them (the
    less of what is left and right of it; BERT's "max context"), bool[size]."""
    # The windows of an example lie side by side.
    same = np.arange(*np.searchsorted(items.example, items.example[item] + np.arange(2)))
    start, size = items.runs[item, 1, 0].tolist()
    token = start + np.arange(size)
    best, of = np.full(size, -1.0), np.full(size, -1)
    for other in same.tolist():
        begin, width = items.runs[other, 1, 0].tolist()
        left, right = token - begin, begin + width - 1 - token
        score = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * width, -1.0)
        of = np.where(score > best, other, of)
        best = np.maximum(score, best)
    return of == item


def _chunks(
    store: TaskStore,
    items: Items,
    item: int,
    made: Rows,
    row: int,
    *,
    length: int,
    frame: FrameConfig,
) -> None:
    """A long text's windows, each from a multiple of the window's length on."""
    example, width = int(items.example[item]), length // frame.chunks
    room = width - frame.overhead(1)
    source = int(store.starts[example, 0])
    text = np.concatenate(
        [store.read(source + start, size) for start, size in items.runs[item, 0].tolist()]
    )
    for chunk in range(max(1, -(-len(text) // room))):
        part = text[chunk * room : (chunk + 1) * room]
        framed = np.concatenate((frame.first, part, frame.last)).astype(np.int32)
        begin, end = chunk * width, chunk * width + len(framed)
        made["tokens"][row, begin:end] = framed
        made["segments"][row, begin:end] = chunk + 1
        made["positions"][row, begin:end] = np.arange(len(framed))
        made["begins"][row, chunk], made["ends"][row, chunk] = begin, end - 1
