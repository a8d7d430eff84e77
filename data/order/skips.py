"""Ranges of rows that are jumped over: a loss spike's batches."""

import numpy as np


def merged(skip: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Ranges [first, last) -> the same rows as sorted, disjoint ranges, i64[ranges, 2]."""
    ranges: list[list[int]] = []
    for first, last in sorted(skip):
        if ranges and first <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], last)
        else:
            ranges.append([first, last])
    return np.array(ranges, np.int64).reshape(-1, 2)


def visited(start: int, n: int, *, skip: np.ndarray) -> np.ndarray:
    """The n row numbers from `start` on that are in no range of `skip` (of `merged`), i64[n]."""
    rows = np.arange(start, start + n)
    for first, last in skip.tolist():
        rows = np.where(rows >= max(first, start), rows + max(0, last - max(first, start)), rows)
    return rows
