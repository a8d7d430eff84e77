"""Pearson from moments that merge without cancellation; Spearman from ranks of all values."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.evaluation.sums import ratio


def moments(x: jax.Array, y: jax.Array, *, counted: jax.Array | None = None) -> dict[str, Any]:
    """{"count", "mean": [2], "products": [2, 2]}: the mean of x and y over one batch, and the sums
    of products of what differs from it. May be traced, on any mesh. Batches are put together by
    `merged_moments`, not added: raw sums of squares would cancel in float32."""
    kept = (jnp.ones(x.shape, bool) if counted is None else counted > 0).reshape(-1)
    both = jnp.stack([x.reshape(-1), y.reshape(-1)]).astype(jnp.float32)
    # Padding may hold anything, also NaN.
    both = jnp.where(kept, both, 0)
    count = kept.sum(dtype=jnp.int32)
    mean = both.sum(1) / jnp.maximum(count, 1)
    apart = jnp.where(kept, both - mean[:, None], 0)
    products = jnp.einsum("im,jm->ij", apart, apart, precision="highest")
    return {"count": count, "mean": mean, "products": products}


def merged_moments(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """The moments of all parts together, in float64 (Chan, Golub, LeVeque 1983)."""
    count, mean, products = 0, np.zeros(2), np.zeros((2, 2))
    for part in parts:
        more = int(part["count"])
        if not more:
            continue
        apart = np.asarray(part["mean"], np.float64) - mean
        between = np.outer(apart, apart) * count * more / (count + more)
        products = products + np.asarray(part["products"], np.float64) + between
        mean = mean + apart * more / (count + more)
        count += more
    return {"count": count, "mean": mean, "products": products}


def pearson(sums: Mapping[str, Any]) -> float:
    """The correlation of merged moments; NaN where x or y does not vary."""
    products = np.asarray(sums["products"], np.float64)
    return ratio(products[0, 1], np.sqrt(products[0, 0] * products[1, 1]))


def spearman(x: Any, y: Any) -> float:
    """The correlation of the ranks of all values (numbers [n] on the host), ties at their mean
    rank. It is no function of sums: gather the values of all batches first. NaN where x or y does
    not vary; ValueError for NaN or unequal lengths."""
    pair = [np.asarray(each, np.float64).reshape(-1) for each in (x, y)]
    if len(pair[0]) != len(pair[1]) or any(np.isnan(each).any() for each in pair):
        raise ValueError("spearman needs as many numbers x as y, and no NaN")
    ranks = np.stack([mean_ranks(each) for each in pair])
    apart = ranks - ranks.mean(1, keepdims=True)
    return pearson({"products": apart @ apart.T})


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]
