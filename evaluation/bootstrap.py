"""How sure a figure is: bootstrap intervals, clustered where asked, and two models compared."""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np

# What turns summed leaves into a figure: `lambda sums: sums["right"] / sums["count"]`.
Figure = Callable[[Mapping[str, np.ndarray]], float]

_CHUNK = 256  # resamples drawn at a time


class Interval(NamedTuple):
    """A figure, the ends of its interval, the standard error, and how many units were drawn."""

    value: float
    low: float
    high: float
    error: float
    units: int


def interval(
    sums: Mapping[str, Any],
    figure: Figure,
    *,
    clusters: Any = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    kind: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """The interval of `figure` of the sums over examples.

    sums: {name: [n, ...]} per example, those a metric adds up over a data set. figure: what is
    computed of the added leaves. clusters: [n] of anything; examples of one cluster are drawn
    together (questions about one text, turns of one dialogue), without it every example is one.
    Draws with replacement as many clusters as there are. kind: quantiles of the draws, or those
    corrected for bias and acceleration (Efron 1987), better for few units. Draws in which the
    figure is NaN or infinite are left out. Raises ValueError for leaves of unequal length, fewer
    than two units, or a NaN or infinite figure.
    """
    table, shape = _units(sums, clusters)
    value = shape.figure(figure, table.sum(0))
    drawn = _finite(value, [shape.figure(figure, each) for each in _resample(table, draws, seed)])
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if kind == "bca":
        left_out = np.array([shape.figure(figure, table.sum(0) - each) for each in table])
        ends = _correct(ends, drawn, left_out, value)
    low, high = np.quantile(drawn, ends)
    return Interval(value, float(low), float(high), float(drawn.std(ddof=1)), len(table))


class Comparison(NamedTuple):
    """The figure of both models, the difference (second - first) with its interval, and p: the
    chance of one at least as large, either way, if each example's two answers were exchangeable."""

    first: float
    second: float
    difference: Interval
    p: float


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    figure: Figure,
    *,
    clusters: Any = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Two models (checkpoints) on the same examples in the same order.

    The interval draws examples (clusters) with both models' sums together. p is that of a paired
    randomisation test: the two sums of every example (cluster) are exchanged or not; all ways
    where there are at most `draws` of them, else `draws` random ones, and then (1 + as large) /
    (1 + draws), which is never 0 (Phipson, Smyth 2010). Raises ValueError as `interval` does and
    where the two are not of the same examples.
    """
    (one, shape), (two, other) = _units(first, clusters), _units(second, clusters)
    if one.shape != two.shape or shape != other:
        raise ValueError(
            f"the two have sums of {len(one)} and {len(two)} examples or of different leaves; the"
            " comparison is of the same examples in the same order"
        )
    width = one.shape[1]

    def difference(sums: np.ndarray) -> float:
        return shape.figure(figure, sums[width:]) - shape.figure(figure, sums[:width])

    both = np.concatenate([one, two], 1)
    value = difference(both.sum(0))
    drawn = _finite(value, [difference(each) for each in _resample(both, draws, seed)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    error = float(drawn.std(ddof=1))
    return Comparison(
        shape.figure(figure, one.sum(0)),
        shape.figure(figure, two.sum(0)),
        Interval(value, float(low), float(high), error, len(one)),
        _exchange(one, two, difference, value, draws, seed),
    )


class _Shape(NamedTuple):
    """The leaves that lie side by side in a table's columns."""

    leaves: tuple[tuple[str, tuple[int, ...]], ...]

    def figure(self, figure: Figure, row: np.ndarray) -> float:
        sums, at = {}, 0
        for name, dims in self.leaves:
            size = int(np.prod(dims))
            sums[name] = row[at : at + size].reshape(dims) if dims else row[at]
            at += size
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(figure(sums))


def _units(sums: Mapping[str, Any], clusters: Any) -> tuple[np.ndarray, _Shape]:
    """(f64[units, columns], what the columns are)."""
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in sorted(sums.items())}
    lengths = {name: len(leaf) for name, leaf in leaves.items()}
    if clusters is not None:
        lengths["clusters"] = len(clusters)
    if len(set(lengths.values())) != 1:
        raise ValueError(f"one value per example is needed, not {lengths}")
    count = next(iter(lengths.values()))
    table = np.concatenate([leaf.reshape(count, -1) for leaf in leaves.values()], 1)
    if clusters is not None:
        _, where = np.unique(np.asarray(clusters), return_inverse=True)
        grouped = np.zeros((int(where.max(initial=-1)) + 1, table.shape[1]))
        np.add.at(grouped, where, table)
        table = grouped
    if len(table) < 2:
        raise ValueError(f"{len(table)} examples or clusters; an interval needs at least 2")
    return table, _Shape(tuple((name, leaf.shape[1:]) for name, leaf in leaves.items()))


def _finite(value: float, drawn: list[float]) -> np.ndarray:
    """What is a number of the draws, where the figure of all examples is one."""
    if not np.isfinite(value):
        raise ValueError(f"the figure of all examples is {value}; there is no interval of it")
    return np.array(drawn)[np.isfinite(drawn)]


def _resample(table: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[draws, columns]: sums over as many units as there are, drawn with replacement."""
    drawn, units = np.random.default_rng(seed), len(table)
    parts = []
    for start in range(0, draws, _CHUNK):
        rows = min(_CHUNK, draws - start)
        chosen = drawn.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(chosen.reshape(-1), minlength=rows * units).reshape(rows, units)
        parts.append(times @ table)
    return np.concatenate(parts)


def _exchange(
    one: np.ndarray,
    two: np.ndarray,
    difference: Callable[[np.ndarray], float],
    value: float,
    draws: int,
    seed: int,
) -> float:
    # Units that agree change nothing when exchanged: they need no draw.
    moved = two - one
    moved = moved[np.any(moved != 0, 1)]
    units, whole = len(moved), 2 ** min(len(moved), 62)
    if exact := whole <= draws:
        swaps = (np.arange(whole)[:, None] >> np.arange(units)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(2, size=(draws, units))
    shifts = swaps @ moved
    sums = np.concatenate([one.sum(0) + shifts, two.sum(0) - shifts], 1)
    # Equal differences are computed in different orders: as large but for rounding is as large.
    close = abs(value) * (1 - 1e-9)
    large = sum(abs(difference(each)) >= close for each in sums)
    return large / whole if exact else (1 + large) / (1 + draws)


def _correct(ends: np.ndarray, drawn: np.ndarray, left_out: np.ndarray, value: float) -> np.ndarray:
    normal = NormalDist()
    # Ties count half, as in scipy.
    below = ((drawn < value).sum() + (drawn <= value).sum()) / (2 * len(drawn))
    bias = normal.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    apart = left_out.mean() - left_out
    spread = (apart**2).sum() ** 1.5
    acceleration = (apart**3).sum() / (6 * spread) if spread else 0.0
    moved = bias + np.array([normal.inv_cdf(end) for end in ends])
    return np.array([normal.cdf(bias + each / (1 - acceleration * each)) for each in moved])
