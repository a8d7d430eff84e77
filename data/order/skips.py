"""Ranges of rows that are jumped over: a loss spike's batches."""

import numpy as np

Ranges = tuple[tuple[int, int], ...]


def check_ranges(skip: Ranges) -> None:
    """Raises ValueError for a range that is not (first, last + 1) with first < last."""
    for pair in skip:
        if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"a skipped range is (first, last + 1) with first < last, not {pair}")


def merge_ranges(skip: Ranges) -> np.ndarray:
    """Ranges [first, last) -> the same rows as sorted, disjoint ranges, i64[ranges, 2]."""
    ranges: list[list[int]] = []
    for first, last in sorted(skip):
        if ranges and first <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], last)
        else:
            ranges.append([first, last])
    return np.array(ranges, np.int64).reshape(-1, 2)


def skip_over(start: int, n: int, *, skip: np.ndarray) -> np.ndarray:
    """The n row numbers from `start` on that no range holds, i64[n]. skip: as `merge_ranges` gives
    them."""
    rows = np.arange(start, start + n)
    for first, last in skip.tolist():
        rows = np.where(rows >= max(first, start), rows + max(0, last - max(first, start)), rows)
    return rows
