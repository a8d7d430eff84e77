"""Whether a model is as often right as it is sure: bins, ECE with its null band, temperature."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gesso.evaluation.sums import ratio

BINS = 15  # of Guo et al. 2017, https://arxiv.org/abs/1706.04599


def equal_width(bins: int = BINS) -> np.ndarray:
    """Edges [bins + 1] of bins that are equally wide."""
    return np.linspace(0.0, 1.0, bins + 1)


def bin_counts(confidences: Any, correct: Any, *, edges: Any) -> dict[str, np.ndarray]:
    """Per bin, {"count", "correct", "confidence", "confidence_squared": [bins]}, and "outside", how
    many confidences were not in 0..1; float64 on the host, and adds over batches.

    confidences: the probability of the predicted class, for a label, an option or a token. edges:
    ascending, from 0 to 1. A bin is (low, high], as in Guo's code; the outermost edges always
    belong to a bin.
    """
    each, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    place = np.searchsorted(edges[1:-1], each, side="left")
    values = {"correct": right, "confidence": each, "confidence_squared": each**2}
    bins = len(edges) - 1
    sums = {name: np.bincount(place, value, bins) for name, value in values.items()}
    broken = np.sum(~((each >= 0) & (each <= 1)))
    return {"count": np.bincount(place, minlength=bins), "outside": broken} | sums


def calibration(
    sums: Mapping[str, Any], *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """{"ece", "mce", "rms", "accuracy", "confidence", "count", "null": {"mean", "low", "high"},
    "bins": [{"count", "confidence", "accuracy", "low", "high"}]} of summed bins.

    ece: the mean over examples of |accuracy - confidence| of their bin; rms: the root of the mean
    square; mce: the worst bin. ECE is above 0 for a finite number of examples also when the model
    is perfectly calibrated: null is what it would then be, its mean and the middle `level` of
    `draws` draws from `seed` in which every answer is right with its confidence. An ECE inside the
    band shows no miscalibration. A bin's low and high are the same band for its accuracy. Empty
    bins have None. Raises ValueError for confidences outside 0..1 and where nothing was counted.
    """
    if outside := int(sums["outside"]):
        raise ValueError(f"{outside} confidences are not in 0..1; give probabilities, not logits")
    count_N = np.asarray(sums["count"], np.int64)
    total = count_N.sum()
    if not total:
        raise ValueError("nothing was counted; calibration needs predictions")
    held = count_N > 0
    n = count_N[held].astype(np.float64)
    sure = np.clip(np.asarray(sums["confidence"], np.float64)[held] / n, 0, 1)
    right = np.asarray(sums["correct"], np.float64)[held] / n
    gap, share = np.abs(right - sure), n / total
    drawn = _draw_calibrated(
        sure, np.asarray(sums["confidence_squared"], np.float64)[held], n, draws, seed
    )
    null = (np.abs(drawn - sure) * share).sum(1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(null, ends)
    rows: list[dict[str, Any]] = [
        dict.fromkeys(("confidence", "accuracy", "low", "high")) for _ in count_N
    ]
    figures = zip(sure, right, *np.quantile(drawn, ends, axis=0), strict=True)
    for place, values in zip(np.flatnonzero(held), figures, strict=True):
        rows[place] = dict(zip(rows[place], map(float, values), strict=True))
    return {
        "ece": float((gap * share).sum()),
        "mce": float(gap.max()),
        "rms": float(np.sqrt((gap**2 * share).sum())),
        "accuracy": float((right * share).sum()),
        "confidence": float((sure * share).sum()),
        "count": int(total),
        "null": {"mean": float(null.mean()), "low": float(low), "high": float(high)},
        "bins": [{"count": int(n), **row} for n, row in zip(count_N, rows, strict=True)],
    }


class Temperature(NamedTuple):
    """The temperature that minimises the cost, nats per example before and after it, and the slope
    that is left (per example, by 1 / temperature): 0 at the optimum."""

    temperature: float
    nll_before: float
    nll_after: float
    slope: float


def solve_temperature(
    sums_at: Callable[[float], Mapping[str, Any]], *, tolerance: float = 1e-6, hottest: float = 1e3
) -> Temperature:
    """The optimum of a cost that is convex in 1 / temperature, from its sums over all the
    validation data at any 1 / temperature asked for: {"nll", "slope", "curvature", "count"}, the
    summed cost, its first and its second derivative by 1 / temperature.

    Newton's steps, or halves of a bracket of the slope's sign change where a step would leave it or
    the last one helped little, until the slope per example is below `tolerance` or the bracket is
    one float.
    Raises ValueError where there is no optimum between 1 / hottest and hottest: every answer right
    (T -> 0), or logits that tell nothing (T -> infinity).
    """
    first = _each(sums_at(1.0))
    low, high, inverse, here, before = 1 / hottest, hottest, 1.0, first, np.inf
    for _ in range(200):
        if abs(here["slope"]) <= tolerance and tolerance < here["curvature"] * inverse**2:
            break
        low, high = (low, inverse) if here["slope"] > 0 else (inverse, high)
        if high <= low * (1 + 1e-12):
            break
        step = here["slope"] / here["curvature"] if here["curvature"] else np.inf
        inverse = inverse - step
        if not low < inverse < high or abs(here["slope"]) > before / 4:
            inverse = float(np.sqrt(low * high))
        before = abs(here["slope"])
        here = _each(sums_at(inverse))
    if inverse >= hottest * (1 - 1e-6) or inverse <= (1 + 1e-6) / hottest:
        why = "every answer is right" if inverse > 1 else "the logits say nothing about the targets"
        raise ValueError(
            f"no temperature between {1 / hottest:g} and {hottest:g} is the best: {why}; fit it on"
            " validation examples that the model was not trained on"
        )
    return Temperature(1 / inverse, first["nll"], here["nll"], here["slope"])


def fit_temperature(logits: Any, targets: Any) -> Temperature:
    """`solve_temperature` for logits [n, Y] and targets [n] on the host, in float64. Fit on
    validation examples, never on those the calibration is then reported of."""
    logits_NY, targets_N = np.asarray(logits, np.float64), np.asarray(targets)
    apart_NY = logits_NY - np.take_along_axis(logits_NY, targets_N[:, None], 1)

    def sums_at(inverse: float) -> dict[str, Any]:
        scaled_NY = apart_NY * inverse
        top_N1 = scaled_NY.max(1, keepdims=True)
        share_NY = np.exp(scaled_NY - top_N1)
        whole_N1 = share_NY.sum(1, keepdims=True)
        share_NY /= whole_N1
        mean_N = (share_NY * apart_NY).sum(1)
        spread_N = (share_NY * (apart_NY - mean_N[:, None]) ** 2).sum(1)
        nll = (np.log(whole_N1) + top_N1).sum()
        sums = {"nll": nll, "slope": mean_N.sum(), "curvature": spread_N.sum()}
        return sums | {"count": len(targets_N)}

    return solve_temperature(sums_at, tolerance=1e-13)


def _each(sums: Mapping[str, Any]) -> dict[str, float]:
    return {name: ratio(sums[name], sums["count"]) for name in ("nll", "slope", "curvature")}


def _draw_calibrated(
    sure: np.ndarray, squares: np.ndarray, n: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """[draws, bins] accuracies of models that are right as often as they say.

    The number right is a sum of Bernoullis of different chances; a binomial of their mean chance
    spreads wider than that, and is drawn in to the exact variance, sum p (1 - p).
    """
    exact, wide = n * sure - squares, n * sure * (1 - sure)
    narrower = np.sqrt(np.clip(np.divide(exact, wide, out=np.zeros_like(n), where=wide > 0), 0, 1))
    drawn = np.random.default_rng(seed).binomial(n.astype(np.int64), sure, (draws, len(n))) / n
    return sure + narrower * (drawn - sure)
