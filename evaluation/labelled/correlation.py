"""Spearman's correlation, from the ranks of all values."""

from typing import Any

import numpy as np

from gesso.evaluation.sums import ratio


def spearman(x: Any, y: Any) -> float:
    """The correlation of the ranks of all values (numbers [n] on the host), ties at their mean
    rank. It is not a function of sums: gather the values of all batches first. NaN where x or y
    does not vary; ValueError for NaN or unequal lengths."""
    pair = [np.asarray(each, np.float64).reshape(-1) for each in (x, y)]
    if len(pair[0]) != len(pair[1]) or any(np.isnan(each).any() for each in pair):
        raise ValueError("spearman needs as many numbers x as y, and no NaN")
    ranks = np.stack([mean_ranks(each) for each in pair])
    apart = ranks - ranks.mean(1, keepdims=True)
    products = apart @ apart.T
    return ratio(products[0, 1], np.sqrt(products[0, 0] * products[1, 1]))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]
