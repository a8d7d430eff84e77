"""Document pieces in their frame: [CLS] A [SEP], or [CLS] A [SEP] B [SEP] with a label.

All rows at once, in numpy: what a row becomes depends on its tokens and its number alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gesso.data.order.counter_hash import below, draw
from gesso.data.order.permutation import make_key


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How pieces are framed. eos: the id that ends documents in the store (-1: none); a piece's
    last [SEP] takes its place. side: the fewest tokens of each side of a pair."""

    cls: int
    sep: int
    eos: int
    pairs: Literal["none", "nsp", "sop"]
    side: int
    seed: int

    @property
    def overhead(self) -> int:
        """Places a piece needs beside its own tokens."""
        return 2 if self.pairs == "none" else 3

    def most_pairs(self, length: int) -> int:
        """The most pairs that a row of this length can hold."""
        return max(1, length // (2 * self.side + self.overhead))


@dataclass(frozen=True)
class _Pieces:
    """Document pieces of some rows, i64[pieces] each: row, number in the row from 1, first token
    (index into the rows joined), tokens without the document's end."""

    row: np.ndarray
    number: np.ndarray
    begin: np.ndarray
    size: np.ndarray


def frame_rows(rows: Mapping[str, np.ndarray], frame: Frame) -> dict[str, np.ndarray]:
    """Rows of the data (docs/data_order.md) -> "tokens", "segments", "positions", "token_types":
    i32[n, L], and with pairs "pair_places", "pair_labels" i32[n, P] and "nsp_weight" f32[n, P].

    A row's p pieces have at most L - p * frame.overhead tokens. segments count pieces from 1,
    positions restart in each. Pairs come in order of their pieces; label 0 is a B that continues A.
    For "nsp" the rows bring "other_*": B's of label 1 are cut from the same segment there, and are
    shorter than the B they replace where that text is. A piece that is too short to be split, or
    that has no text of another document, is [CLS] A [SEP] and no pair.
    """
    tokens = rows["tokens"]
    n, length = tokens.shape
    pieces = _pieces(tokens, rows["segments"], rows["positions"], frame.eos)
    first, second, label, source = _sides(rows, pieces, frame)
    paired = second[1] > 0
    # A row is a list of spans: for each piece [CLS] A [SEP] and B [SEP] (or nothing), then padding.
    at = 2 * np.arange(len(pieces.row)) + pieces.row
    spans = np.zeros(2 * len(at) + n, np.int64)
    spans[at] = first[1] + 2
    spans[at + 1] = second[1] + paired
    ends = np.cumsum(np.bincount(pieces.row, minlength=n))
    pads = 2 * ends + np.arange(n)
    held = np.bincount(pieces.row, spans[at] + spans[at + 1], minlength=n).astype(np.int64)
    spans[pads] = length - held
    assert held.max(initial=0) <= length, "pieces were packed without their overhead"
    begin = np.cumsum(spans) - spans
    framed, made = _lay_out(
        spans, begin, at, pieces.number, (first[0] - 1, second[0]), length=length
    )
    text = np.take(source, framed, mode="clip")
    text *= made["segments"].reshape(-1) > 0
    text[begin[at]] = frame.cls
    text[begin[at] + first[1] + 1] = frame.sep
    text[(begin[at + 1] + second[1])[paired]] = frame.sep
    made["tokens"] = text.reshape(n, length)
    if frame.pairs == "none":
        return made
    return made | _pair_leaves(pieces.row[paired], begin[at[paired]] % length, label[paired],
                               shape=(n, frame.most_pairs(length)))  # fmt: skip


def _pieces(tokens: np.ndarray, segments: np.ndarray, positions: np.ndarray, eos: int) -> _Pieces:
    n, length = tokens.shape
    begin = np.flatnonzero((positions == 0) & (segments > 0))
    row = begin // length
    used = np.count_nonzero(segments, axis=1)
    # Where each piece begins among the tokens that are no padding: that is at the ends of rows.
    packed = begin - row * length + (np.cumsum(used) - used)[row]
    size = np.diff(packed, append=used.sum())
    number = segments.reshape(-1)[begin].astype(np.int64)
    ended = tokens.reshape(-1)[begin + size - 1] == eos
    return _Pieces(row, number, begin, size - ended)


def _sides(rows: Mapping[str, np.ndarray], pieces: _Pieces, frame: Frame):
    """((begin, size) of A, (begin, size) of B, label, the tokens they index): i64[pieces] each."""
    source = np.ascontiguousarray(rows["tokens"], np.int32).reshape(-1)
    begin, size = pieces.begin, pieces.size
    nothing = np.zeros_like(size)
    if frame.pairs == "none":
        return (begin, size), (begin, nothing), nothing, source
    key = draw(draw(make_key("pairs", frame.seed)[0], rows["row"])[pieces.row], pieces.number)
    can = size >= 2 * frame.side
    if frame.pairs == "nsp":
        text = np.ascontiguousarray(rows["other_tokens"], np.int32)
        other = _pieces(text, rows["other_segments"], rows["other_positions"], frame.eos)
        source = np.concatenate([source, text.reshape(-1)])
        begins, sizes = _beside(pieces, other, rows["tokens"].shape)
        can &= sizes >= frame.side
    split = np.where(can, frame.side + below(key, np.maximum(size - 2 * frame.side + 1, 1)), size)
    label = np.where(can, (key & np.uint64(1)).astype(np.int64), 0)
    b = size - split
    if frame.pairs == "nsp":
        foreign = label == 1
        begin_b = np.where(foreign, begins + rows["tokens"].size, begin + split)
        return (begin, split), (begin_b, np.where(foreign, np.minimum(b, sizes), b)), label, source
    swapped = label == 1
    begin_a, size_a = begin + np.where(swapped, split, 0), np.where(swapped, b, split)
    begin_b, size_b = begin + np.where(swapped, 0, split), np.where(swapped, split, b)
    return (begin_a, size_a), (begin_b, size_b * can), label, source


def _beside(pieces: _Pieces, other: _Pieces, shape: tuple[int, ...]):
    """(begin, size) in the other rows of the text for each piece; size 0 where there is none."""
    place, other_place = (each.row * (shape[1] + 1) + each.number for each in (pieces, other))
    found = np.searchsorted(other_place, place)
    there = np.append(other_place, -1)[found] == place
    begins, sizes = np.append(other.begin, 0)[found], np.append(other.size, 0)[found]
    return begins, np.where(there, sizes, 0)


def _lay_out(spans, begin, at, number, offsets, *, length):
    """(index of each place's token in the source, {"segments", "token_types", "positions"})."""
    total = int(spans.sum())
    shift, numbers, types, origin = (np.zeros(len(spans), np.int32) for _ in range(4))
    shift[at], shift[at + 1] = offsets[0] - begin[at], offsets[1] - begin[at + 1]
    numbers[at] = numbers[at + 1] = number
    types[at + 1] = 1
    origin[at] = origin[at + 1] = begin[at]
    places = np.arange(total, dtype=np.int32)
    segments = np.repeat(numbers, spans)
    positions = places - np.repeat(origin, spans)
    positions *= segments > 0
    made = {
        "segments": segments,
        "positions": positions,
        "token_types": np.repeat(types, spans),
    }
    index = places + np.repeat(shift, spans)
    return index, {name: leaf.reshape(-1, length) for name, leaf in made.items()}


def _pair_leaves(row, place, label, *, shape):
    """Each row's pairs in the first of its P columns."""
    count = np.bincount(row, minlength=shape[0])
    column = np.arange(len(row)) - (np.cumsum(count) - count)[row]
    places, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weight = np.zeros(shape, np.float32)
    places[row, column], labels[row, column], weight[row, column] = place, label, 1
    return {"pair_places": places, "pair_labels": labels, "nsp_weight": weight}
