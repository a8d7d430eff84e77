"""Figures of a task from what was predicted of every example: the task's metrics, each beside what
needs no model, and whether the model is as often right as it is sure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gesso.data.labelled.store import TaskStore
from gesso.evaluation.bootstrap import interval
from gesso.evaluation.calibration import bin_counts, calibration, equal_width, fit_temperature
from gesso.evaluation.labelled.classification import classification, confusion, ranking, score_table
from gesso.evaluation.labelled.correlation import spearman
from gesso.evaluation.labelled.entities import add_entities, entity_counts, entity_f1
from gesso.evaluation.labelled.predictions import Predictions
from gesso.evaluation.questions.scoring import match, match_sums
from gesso.evaluation.sums import ratio, total

Figures = dict[str, Any]


def task_metrics(store: TaskStore, found: Predictions, *, null: float = 0.0) -> Figures:
    """{"kind", "examples", "loss" (but of qa), "scores": {name: value}, "floor": {name: value},
    "interval": {"of", "low", "high"}, ...} of predictions of a task store's split.

    scores, the first of which leads: accuracy, macro F1, MCC and, of two classes, F1 and both areas
    of the second one; correlations and errors of numbers; entity F1 of tags in IOB; exact match and
    F1 of answers, both in 0..1. floor: the same of a baseline that always predicts the most
    frequent label of the training examples (their mean; no answer). interval: of the leading score,
    95%, by bootstrap over examples. With it "labels", "confusion" and "calibration" (of the
    likelier label, 15 equal bins) and "temperature", of labels and tags. loss: nats, or squared
    error. null: how much better an answer must score than none, where there are questions without
    one.
    """
    figures = {"classify": _classes, "regress": _numbers, "tag": _tags}.get(found.kind)
    if figures is None:
        return _answers(store, found, null=null)
    return {"kind": found.kind, "examples": len(np.unique(found.examples))} | figures(store, found)


def answers_of(store: TaskStore, found: Predictions, *, null: float = 0.0) -> dict[int, str]:
    """{example: the answer's text}; "" where no answer scores better, which counts where the store
    has training questions without one."""
    spans = found.spans
    can_be_null = store.record["statistics"]["answered"] < store.count["train"]
    made = {}
    order = np.lexsort((-spans["score"], spans["example"]))
    examples, first = np.unique(spans["example"][order], return_index=True)
    nothing = np.full(len(examples), np.inf)
    np.minimum.at(nothing, np.searchsorted(examples, spans["example"]), spans["null"])
    for example, best, none in zip(examples.tolist(), order[first].tolist(), nothing, strict=True):
        score = spans["score"][best]
        if not np.isfinite(score) or (can_be_null and score - none <= null):
            made[example] = ""
            continue
        at = int(store.starts[example, 1])
        of_words = store.leaves["characters"]
        begin = int(of_words[at + spans["first"][best], 0])
        end = int(of_words[at + spans["last"][best], 1])
        made[example] = store.facts[example]["context"][begin:end]
    return made


def _classes(store: TaskStore, found: Predictions) -> Figures:
    logits, targets = found.logits.astype(np.float64), found.targets.astype(np.int64)
    said, classes = logits.argmax(1), len(store.labels)
    made = classification(_confusion(targets, said, classes))
    frequent = np.full(len(targets), int(np.argmax(store.record["statistics"]["labels"])))
    baseline = classification(_confusion(targets, frequent, classes))
    scores, beside = _class_scores(made), _class_scores(baseline)
    if classes == 2:
        scores["f1"], beside["f1"] = (each["f1"]["classes"][1] for each in (made, baseline))
        if 0 < targets.sum() < len(targets):
            areas = ranking(score_table(logits[:, 1] - logits[:, 0], targets))
            share = float(targets.mean())
            scores |= {name: areas[name] for name in ("roc_auc", "average_precision")}
            beside |= {"roc_auc": 0.5, "average_precision": share}
    right = (said == targets).astype(np.float64)
    return {
        "loss": _nll(logits, targets),
        "scores": scores,
        "floor": beside,
        "interval": _interval("accuracy", {"right": right, "count": np.ones(len(right))}),
        "labels": list(store.labels),
        "confusion": _confusion(targets, said, classes)["confusion"].tolist(),
        **_sureness(logits, targets),
    }


def _class_scores(made: Figures) -> dict[str, float]:
    return {
        "accuracy": made["accuracy"],
        "macro_f1": made["f1"]["macro"],
        "mcc": made["mcc"],
        "balanced_accuracy": made["balanced_accuracy"],
    }


def _numbers(store: TaskStore, found: Predictions) -> Figures:
    said, truth = found.logits[:, 0].astype(np.float64), found.targets.astype(np.float64)
    mean = store.record["statistics"]["mean"]
    errors = {"squared": (said - truth) ** 2, "count": np.ones(len(said))}
    return {
        "loss": float(errors["squared"].mean()),
        "scores": {
            "spearman": spearman(said, truth),
            "pearson": _pearson(said, truth),
            "mean_squared_error": float(errors["squared"].mean()),
            "mean_absolute_error": float(np.abs(said - truth).mean()),
        },
        "floor": {
            "spearman": 0.0,
            "pearson": 0.0,
            "mean_squared_error": float(((mean - truth) ** 2).mean()),
            "mean_absolute_error": float(np.abs(mean - truth).mean()),
        },
        "interval": _interval("mean_squared_error", errors, part="squared"),
    }


def _tags(store: TaskStore, found: Predictions) -> Figures:
    logits, targets = found.logits.astype(np.float64), found.targets.astype(np.int64)
    said = logits.argmax(1)
    frequent = np.full(len(targets), int(np.argmax(store.record["statistics"]["labels"])))
    cuts = np.flatnonzero(np.diff(found.examples)) + 1
    scores: dict[str, float] = {}
    beside: dict[str, float] = {}
    entities = _are_entities(store.labels)
    if entities:
        for made, each in ((scores, said), (beside, frequent)):
            counts = _entities(store.labels, targets, each, cuts)
            made |= {f"entity_{name}": entity_f1(counts)[name] for name in _ENTITY}
    for made, each in ((scores, said), (beside, frequent)):
        made["accuracy"] = float((each == targets).mean())
        figures = classification(_confusion(targets, each, len(store.labels)))
        made["macro_f1"] = figures["f1"]["macro"]
    right = [part.mean() * len(part) for part in np.split((said == targets) * 1.0, cuts)]
    sums = {"right": np.array(right), "count": np.array([len(x) for x in np.split(said, cuts)])}
    return {
        "words": len(targets),
        "loss": _nll(logits, targets),
        "scores": scores,
        "floor": beside,
        "interval": _interval("accuracy", sums),
        "labels": list(store.labels),
        **_sureness(logits, targets),
    }


_ENTITY = ("f1", "precision", "recall")


def _answers(store: TaskStore, found: Predictions, *, null: float) -> Figures:
    said = answers_of(store, found, null=null)
    truths = {example: store.facts[example].get("answers", []) or [""] for example in said}
    sums = match_sums([*said.values()], [*truths.values()])
    none = match_sums([""] * len(said), [*truths.values()])
    scores, nothing = (
        match({name: leaf.sum() for name, leaf in each.items()}) for each in (sums, none)
    )
    return {
        "kind": "qa",
        "examples": len(said),
        "scores": {"f1": scores["f1"], "exact": scores["exact"]},
        "floor": {"f1": nothing["f1"], "exact": nothing["exact"]},
        "interval": _interval("f1", sums, part="f1"),
        "unanswered": sum(not answer for answer in said.values()),
    }


def _confusion(targets: np.ndarray, said: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in confusion(targets, said, classes=classes).items()}  # pyright: ignore[reportArgumentType]


def _nll(logits: np.ndarray, targets: np.ndarray) -> float:
    top = logits.max(1, keepdims=True)
    log_z = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((log_z - logits[np.arange(len(logits)), targets]).mean())


def _sureness(logits: np.ndarray, targets: np.ndarray) -> Figures:
    """{"calibration", "temperature"?}: of these logits; and what a temperature fitted on every
    other example makes of the rest, and the other way round."""

    def bins(logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        shares = np.exp(logits - logits.max(1, keepdims=True))
        sure = (shares / shares.sum(1, keepdims=True)).max(1)
        return bin_counts(sure, logits.argmax(1) == targets, edges=equal_width())

    made: Figures = {"calibration": calibration(bins(logits, targets))}
    halves = [np.arange(k, len(targets), 2) for k in (0, 1)]
    try:
        fitted = [fit_temperature(logits[half], targets[half]).temperature for half in halves]
    except (ValueError, IndexError):
        return made  # every answer right, or too few of them
    cooled = [bins(logits[halves[1 - k]] / fitted[k], targets[halves[1 - k]]) for k in (0, 1)]
    after = calibration(total(cooled))
    return made | {"temperature": {"values": fitted, "ece": after["ece"], "null": after["null"]}}


def _interval(name: str, sums: Mapping[str, Any], *, part: str = "right") -> Figures:
    if len(sums["count"]) < 2:
        return {"of": name, "low": float("nan"), "high": float("nan")}
    found = interval(
        {"part": sums[part], "count": sums["count"]},
        lambda added: ratio(added["part"], added["count"]),
    )
    return {"of": name, "low": found.low, "high": found.high}


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return ratio((x * y).sum(), float(np.sqrt((x**2).sum() * (y**2).sum())))


def _are_entities(labels: Sequence[str]) -> bool:
    return any("-" in each for each in labels) and all(
        each == "O" or (each[:1] in "BIES" and each[1:2] == "-" and each[2:]) for each in labels
    )


def _entities(
    labels: Sequence[str], targets: np.ndarray, said: np.ndarray, cuts: np.ndarray
) -> dict[str, Counter[str]]:
    return add_entities(
        *(
            entity_counts([str(labels[t]) for t in truth], [str(labels[t]) for t in made])
            for truth, made in zip(np.split(targets, cuts), np.split(said, cuts), strict=True)
        )
    )
