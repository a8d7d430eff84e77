"""Which pieces of which documents share a row: best-fit packing and concatenated windows.

A plan needs only the documents' lengths, so that a row stays addressed by an integer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

Packing = Literal["best_fit", "concat", "stream"]


class Shape(TypedDict):
    """How documents become rows, as make_plan and measure take it."""

    length: int
    overlap: int
    packing: Packing
    overhead: int


@dataclass(frozen=True)
class Plan:
    """The rows of one component in one era.

    starts: i64[pieces], token offset of each piece in the era's concatenation of the component.
    lengths: i32[pieces]. Both by row, then in document order inside a row.
    first: i64[rows + 1], the first piece of each row.
    """

    starts: np.ndarray
    lengths: np.ndarray
    first: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.first) - 1

    @property
    def tokens(self) -> int:
        """Tokens that are not padding, overlaps counted as often as they are read."""
        return int(self.lengths.sum(dtype=np.int64))


def make_plan(
    documents: np.ndarray, *, length: int, overlap: int, packing: Packing, overhead: int = 0
) -> Plan:
    """The rows that hold these documents (i64[docs], tokens per document) at `length` tokens a row.

    Every piece takes `overhead` tokens of its row beside its own, so that a row of p pieces holds
    at most length - p * overhead tokens.

    "best_fit": a document longer than a row is cut into pieces that share `overlap` tokens; pieces
    are packed best fit, longest first, and no piece is cut again. Rows are numbered by their first
    piece. "concat", "stream": the documents are one text, cut into windows that share `overlap`
    tokens.
    """
    if packing != "best_fit":
        # One document that is as long as all of them: windows pass over document ends.
        stream = documents.sum(keepdims=True)
        starts, lengths = pieces(stream, length=length - overhead, overlap=overlap)
        return Plan(starts, lengths.astype(np.int32), np.arange(len(starts) + 1))
    starts, lengths = pieces(documents, length=length - overhead, overlap=overlap)
    row, rows = best_fit(lengths + overhead, length=length)
    # Stable: the pieces of a row stay in document order.
    by_row = np.argsort(row, kind="stable")
    count = np.bincount(row, minlength=rows)
    first = np.concatenate(([0], np.cumsum(count)))
    # Best fit opens rows for the longest pieces first; a prefix of the rows should not be that.
    order = np.argsort(by_row[first[:-1]], kind="stable")
    count = count[order]
    by_row = by_row[ranges(first[order], count)]
    return Plan(
        starts[by_row],
        lengths[by_row].astype(np.int32),
        np.concatenate(([0], np.cumsum(count))),
    )


def measure(
    documents: np.ndarray, *, length: int, overlap: int, packing: Packing, overhead: int = 0
) -> tuple[int, int]:
    """(rows, tokens and overheads in them) of the plan for these documents, without making it."""
    if packing != "best_fit":
        documents = documents.sum(keepdims=True)
    _, lengths = pieces(documents, length=length - overhead, overlap=overlap)
    lengths = lengths + overhead
    if packing != "best_fit":
        return len(lengths), int(lengths.sum())
    # How many rows there are depends on how many pieces have each length, not on which ones.
    histogram = np.bincount(lengths, minlength=length + 1)
    rows = sum(move.rows for move in _moves(histogram, length) if move.capacity == length)
    return rows, int(lengths.sum())


def pieces(documents: np.ndarray, *, length: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents (i64[docs], tokens each) to at most `length` tokens: (starts, lengths), i64.

    Starts count from the first document's first token. A document of n > length tokens gives
    ceil((n - overlap) / (length - overlap)) pieces, so that no piece is only overlap.
    """
    documents = np.asarray(documents, np.int64)
    # Every piece but the last brings length - overlap new tokens; -(-a // b) rounds up.
    stride = length - overlap
    count = np.where(documents > length, -((overlap - documents) // stride), documents > 0)
    document = np.repeat(np.arange(len(documents)), count)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    begin = np.cumsum(documents) - documents
    return begin[document] + nth * stride, np.minimum(length, documents[document] - nth * stride)


def best_fit(lengths: np.ndarray, *, length: int) -> tuple[np.ndarray, int]:
    """Best-fit-decreasing: (the row of each piece i64[pieces], number of rows).

    Every piece goes, longest first and else in the given order, to the row whose free space it
    fills best; among equals to the one that came to that space last.
    """
    order = np.argsort(-lengths, kind="stable")
    row = np.empty(len(lengths), np.int64)
    # The loop is over moves, each of many rows: there are as many as lengths meet free spaces.
    free: dict[int, list[np.ndarray]] = {}  # free tokens -> stack of arrays of rows
    placed = rows = 0
    for move in _moves(np.bincount(lengths, minlength=length + 1), length):
        if move.capacity == length:
            chosen = np.arange(rows, rows + move.rows)
            rows += move.rows
        else:
            chosen = _pop(free[move.capacity], move.rows)
        count = move.rows * move.each
        row[order[placed : placed + count]] = np.repeat(chosen, move.each)
        placed += count
        if left := move.capacity - move.each * move.piece:
            free.setdefault(left, []).append(chosen)
    return row, rows


def best_fit_grouped(
    lengths: np.ndarray, group: np.ndarray, *, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """`best_fit` with the pieces of each group (i64[pieces]) in rows of their own: (the row of each
    piece i64[pieces], the group of each row i64[rows])."""
    row, groups = np.empty(len(lengths), np.int64), []
    for each in np.unique(group):
        mine = np.flatnonzero(group == each)
        placed, rows = best_fit(lengths[mine], length=length)
        row[mine] = placed + sum(map(len, groups))
        groups.append(np.full(rows, each))
    return row, np.concatenate(groups) if groups else np.zeros(0, np.int64)


def gather(plan: Plan, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of these rows of a plan, row by row: (starts, lengths, pieces per row)."""
    count = plan.first[rows + 1] - plan.first[rows]
    picked = ranges(plan.first[rows], count)
    return plan.starts[picked], plan.lengths[picked], count


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers of many ranges [start, start + size), one range after the other; all i64."""
    shift = starts - (np.cumsum(sizes) - sizes)
    return np.arange(int(sizes.sum())) + np.repeat(shift, sizes)


def assemble(
    data: np.ndarray, lengths: np.ndarray, count: np.ndarray, *, length: int
) -> dict[str, np.ndarray]:
    """Lay pieces out in rows, padding at their ends: {"tokens", "segments", "positions"}.

    data: the pieces' tokens, joined. lengths: tokens per piece. count: pieces per row, i64[n].
    All three results are i32[n, length]: segments count the pieces of a row from 1 (0 = padding),
    positions restart in each (0 in padding).
    """
    n, last = len(count), np.cumsum(count)
    # All rows have a piece, which reduceat needs: of an empty run it gives the next number.
    padding = length - np.add.reduceat(lengths, last - count)
    # Spans are the pieces with each row's padding (maybe empty) as one more span at its end.
    span = np.arange(len(lengths)) + np.repeat(np.arange(n), count)
    size = np.empty(len(lengths) + n, np.int64)
    size[span], size[last + np.arange(n)] = lengths, padding
    number = np.zeros(len(size), np.int32)
    number[span] = np.arange(1, len(lengths) + 1) - np.repeat(last - count, count)
    begin = (np.cumsum(size) - size).astype(np.int32)
    segments = np.repeat(number, size)
    positions = np.arange(n * length, dtype=np.int32) - np.repeat(begin, size)
    if padding.any():
        # Windows of one text ("concat") fill their rows and need no copy by mask.
        used = segments > 0
        tokens = np.zeros(n * length, np.int32)
        tokens[used] = data
        positions *= used
    else:
        tokens = data.astype(np.int32)
    named = {"tokens": tokens, "segments": segments, "positions": positions}
    return {name: array.reshape(n, length) for name, array in named.items()}


def assemble_reads(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], *, length: int
) -> dict[str, np.ndarray]:
    """`assemble` of the rows of several reads, one after the other: (data, lengths, count) each."""
    data, lengths, count = (np.concatenate(each) for each in zip(*parts, strict=True))
    return assemble(data, lengths, count, length=length)


@dataclass(frozen=True)
class _Move:
    """`rows` rows with `capacity` free tokens take `each` pieces of `piece` tokens."""

    piece: int
    capacity: int
    rows: int
    each: int


def _moves(histogram: np.ndarray, length: int) -> Iterator[_Move]:
    # Best-fit-decreasing on counts: pieces of one length that meet rows of one capacity are one
    # move. A row that still fits the same length after a piece is then the best fit, so it takes
    # capacity // piece of them. `open_bits` has bit c set when a row has c free tokens.
    have = [0] * length
    open_bits = 0
    for piece in np.flatnonzero(histogram)[::-1].tolist():
        left = int(histogram[piece])
        while left:
            fitting = open_bits >> piece
            # x & -x keeps the lowest set bit: the smallest space that still fits.
            capacity = piece + (fitting & -fitting).bit_length() - 1 if fitting else length
            fill = capacity // piece
            rows, each = (left // fill, fill) if left >= fill else (1, left)
            if fitting:
                rows = min(rows, have[capacity])
                have[capacity] -= rows
                if not have[capacity]:
                    open_bits &= ~(1 << capacity)
            left -= rows * each
            yield _Move(piece, capacity, rows, each)
            if free := capacity - each * piece:
                have[free] += rows
                open_bits |= 1 << free


def _pop(stack: list[np.ndarray], rows: int) -> np.ndarray:
    taken = []
    while rows:
        top = stack.pop()
        if len(top) > rows:
            stack.append(top[:-rows])
            top = top[-rows:]
        taken.append(top)
        rows -= len(top)
    return np.concatenate(taken)
