"""Sums that metrics are made of: dicts of arrays that add over batches, devices and hosts."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Sums = dict[str, np.ndarray]


def total(parts: Iterable[Mapping[str, Any]]) -> Sums:
    """The parts added leaf by leaf on the host, in int64 and float64: batches of any size, the
    last one included, weigh what is in them. Raises ValueError for no part at all and for parts
    with other leaves than the first.
    """
    added: Sums = {}
    for part in parts:
        leaves = {name: _wide(leaf) for name, leaf in part.items()}
        if added and leaves.keys() != added.keys():
            raise ValueError(
                f"sums of {', '.join(sorted(leaves))} cannot be added to sums of"
                f" {', '.join(sorted(added))}; they are of two metrics"
            )
        added = {name: added.get(name, 0) + leaf for name, leaf in leaves.items()}
    if not added:
        raise ValueError("no sums to add: not one batch was evaluated")
    return added


def ratio(part: Any, whole: Any, *, empty: float = float("nan")) -> float:
    """part / whole, `empty` where whole is 0."""
    return float(part) / float(whole) if whole else empty


def _wide(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)
