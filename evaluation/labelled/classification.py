"""Accuracy, precision, recall, F1, MCC from counts; ROC and PR areas from counts per threshold."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.evaluation.sums import ratio


def confusion(
    targets: jax.Array, predictions: jax.Array, *, classes: int, counted: jax.Array | None = None
) -> dict[str, jax.Array]:
    """{"confusion": i32[Y, Y], "outside": i32[]}: how often class y (row) was called class z
    (column), and how many places had a target or prediction outside 0..classes-1.

    targets, predictions: integers of any equal shape, on any devices; may be traced. counted: 0 or
    False where a place is padding. Add over batches with evaluation.sums.total.
    """
    kept = jnp.ones(targets.shape, bool) if counted is None else counted > 0
    inside = (targets >= 0) & (targets < classes) & (predictions >= 0) & (predictions < classes)
    # A negative index would wrap around to another class: what is outside goes to its own cell.
    cell = jnp.where(inside, targets * classes + predictions, classes * classes)
    cells = jnp.zeros(classes * classes + 1, jnp.int32)
    cells = cells.at[cell.reshape(-1)].add(kept.reshape(-1).astype(jnp.int32))
    return {"confusion": cells[:-1].reshape(classes, classes), "outside": cells[-1]}


def classification(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a summed `confusion`: {"count", "accuracy", "balanced_accuracy", "mcc",
    "precision", "recall", "f1": {"micro", "macro", "weighted", "classes": one per class},
    "support": one per class}.

    0/0 is 0. macro: over the classes that occur among targets or predictions; weighted: by support
    (both as in scikit-learn). balanced_accuracy: the mean recall of classes that are targets. mcc:
    Gorodkin's R_K, which is Matthews' for two classes; 0 where one class is all there is. Raises
    ValueError where a label lay outside the classes.
    """
    if outside := int(sums.get("outside", 0)):
        raise ValueError(f"{outside} targets or predictions are outside the classes")
    cells_YY = np.asarray(sums["confusion"], np.float64)
    right_Y, support_Y, called_Y = np.diag(cells_YY), cells_YY.sum(1), cells_YY.sum(0)
    count, occurs_Y = cells_YY.sum(), support_Y + called_Y > 0
    precision_Y, recall_Y = _over(right_Y, called_Y), _over(right_Y, support_Y)
    f1_Y = _over(2 * right_Y, support_Y + called_Y)
    accuracy = ratio(right_Y.sum(), count)

    def averages(each_Y: np.ndarray) -> dict[str, Any]:
        return {
            "micro": accuracy,  # one label each: every wrong answer is one FP and one FN
            "macro": float(each_Y[occurs_Y].mean()) if count else float("nan"),
            "weighted": ratio((each_Y * support_Y).sum(), count),
            "classes": each_Y.tolist(),
        }

    return {
        "count": round(count),
        "accuracy": accuracy,
        "balanced_accuracy": ratio(recall_Y.sum(), (support_Y > 0).sum()),
        "mcc": _mcc(right_Y, support_Y, called_Y, count),
        "precision": averages(precision_Y),
        "recall": averages(recall_Y),
        "f1": averages(f1_Y),
        "support": [round(each) for each in support_Y.tolist()],
    }


def binary_f1(true_positives: Any, called: Any, positives: Any) -> dict[str, float]:
    """{"precision", "recall", "f1"} of three counts; 0/0 is 0."""
    return {
        "precision": ratio(true_positives, called, empty=0.0),
        "recall": ratio(true_positives, positives, empty=0.0),
        "f1": ratio(2 * true_positives, called + positives, empty=0.0),
    }


def score_table(scores: Any, positive: Any, *, counted: Any = None) -> dict[str, np.ndarray]:
    """The counts at every distinct score, ascending: {"scores", "positives", "negatives"}, on the
    host and exact. ValueError for NaN."""
    kept = np.ones(np.shape(scores), bool) if counted is None else np.asarray(counted) > 0
    each, truth = np.asarray(scores)[kept].astype(np.float64), np.asarray(positive)[kept] > 0
    return _table(each, truth.astype(np.int64), (~truth).astype(np.int64))


def ranking(counts: Mapping[str, Any]) -> dict[str, Any]:
    """{"roc_auc", "average_precision", "positives", "negatives"} of counts per ascending score.

    roc_auc: the chance that a positive scores above a negative, ties one half. average_precision:
    the sum over thresholds of the recall gained times the precision there, without interpolation
    (the PR area of scikit-learn's average_precision_score). NaN where one kind is missing.
    """
    positives_T = np.asarray(counts["positives"], np.float64)
    negatives_T = np.asarray(counts["negatives"], np.float64)
    positives, negatives = positives_T.sum(), negatives_T.sum()
    below_T = np.cumsum(negatives_T) - negatives_T
    wins = (positives_T * (below_T + negatives_T / 2)).sum()
    found_T = np.cumsum(positives_T[::-1])
    called_T = found_T + np.cumsum(negatives_T[::-1])
    precision_T = _over(found_T, called_T)
    area = (positives_T[::-1] * precision_T).sum()
    return {
        "roc_auc": ratio(wins, positives * negatives),
        "average_precision": ratio(area, positives),
        "positives": round(positives),
        "negatives": round(negatives),
    }


def _table(scores: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> dict[str, Any]:
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN")
    distinct, where = np.unique(scores, return_inverse=True)

    def at(counts: np.ndarray) -> np.ndarray:
        summed = np.zeros(len(distinct), np.int64)
        np.add.at(summed, where, counts)
        return summed

    return {"scores": distinct, "positives": at(positives), "negatives": at(negatives)}


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mcc(right_Y: np.ndarray, support_Y: np.ndarray, called_Y: np.ndarray, count: float) -> float:
    covariance = right_Y.sum() * count - (support_Y * called_Y).sum()
    spread = (count**2 - (support_Y**2).sum()) * (count**2 - (called_Y**2).sum())
    return ratio(covariance, np.sqrt(spread), empty=0.0)
