"""The page of a run on labelled examples: its scores beside the baseline's, and its reliability."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso.records.quantities import Unit, value_text
from gesso.reports.facts import Curve, RunFacts, number
from gesso.reports.page import Bar, Hero, Row, Section, Table
from gesso.reports.plots import Level, Plot, Series, draw

_TITLE = "Task"
_DRAWN = 3  # scores with a figure of their own


def task(run: RunFacts) -> Section:
    """A row per score of the last evaluation beside the baseline's; the first ones over the run;
    and the labels' reliability. Empty for a run on text."""
    found = _find(run)
    if not found:
        return Section(key="task", title=_TITLE)
    last, scores = found[-1], _scores(found[-1], "scores")
    baseline = _scores(last, "floor")
    ends = last.get("interval", {})
    rows = [
        Row(
            cells=[
                name.replace("_", " "),
                value_text(value, _form(name)),
                _interval(ends, name),
                value_text(baseline.get(name, math.nan), _form(name)),
            ]
        )
        for name, value in scores.items()
    ]
    plots = [_score(run, name, baseline) for name in [*scores][:_DRAWN]]
    if isinstance(last.get("calibration"), dict):
        plots.append(_reliability(last))
    drawn = [draw(plot) for plot in plots]
    return Section(
        key="task",
        title=_TITLE,
        text=f"{number(last, 'examples', default=0.0):,.0f} held-out examples, at the last"
        " evaluation. Baseline: always predict the most frequent label of the training examples"
        " (of numbers their mean, of questions no answer).",
        figures=[figure for figure in drawn if figure is not None],
        table=Table(heads=("Score", "This run", "95% interval", "Baseline"), rows=rows),
    )


def task_hero(run: RunFacts) -> Hero | None:
    """The leading score against the baseline's, of a run on labelled examples."""
    found = _find(run)
    if not found or not (scores := _scores(found[-1], "scores")):
        return None
    name, ours = next(iter(scores.items()))
    beside = _scores(found[-1], "floor").get(name, math.nan)
    if not (math.isfinite(ours) and math.isfinite(beside)):
        return None
    bars = [
        Bar(
            label=label,
            value=value_text(each, _form(name)),
            percent=100 * max(0.0, min(each, 1.0)),
            ours=label == "this run",
        )
        for label, each in (("this run", ours), ("baseline", beside))
    ]
    return Hero(
        value=value_text(ours, _form(name)),
        unit=name.replace("_", " "),
        text=f"on {number(found[-1], 'examples', default=0.0):,.0f} held-out examples, after"
        f" {int(run.evaluations[-1]['step']):,} steps.",
        bars=bars,
    )


def _find(run: RunFacts) -> list[dict[str, Any]]:
    return [r["task"] for r in run.evaluations if isinstance(r.get("task"), dict)]


def _scores(figures: Mapping[str, Any], key: str) -> dict[str, float]:
    found = figures.get(key)
    return {name: number(found, name) for name in found} if isinstance(found, dict) else {}


def _form(name: str) -> Unit:
    return "percent" if name in ("accuracy", "balanced_accuracy", "exact", "f1") else "number"


def _interval(ends: Mapping[str, Any], name: str) -> str:
    low, high = number(ends, "low"), number(ends, "high")
    if ends.get("of") != name or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{value_text(low, _form(name))} to {value_text(high, _form(name))}"


def _score(run: RunFacts, name: str, baseline: Mapping[str, float]) -> Plot:
    level = baseline.get(name, math.nan)
    return Plot(
        key=f"task-{name}",
        title=name.replace("_", " ").capitalize(),
        unit="held-out examples",
        form=_form(name),
        series=[
            Series(
                label="held out",
                curve=run.heldout_curve("task", "scores", name),
                color=2,
                dots=True,
            )
        ],
        levels=[Level(label="baseline", value=level)] if math.isfinite(level) else [],
    )


def _reliability(figures: Mapping[str, Any]) -> Plot:
    """Accuracy by confidence, between what a calibrated model of as many examples would show."""
    bins = figures["calibration"].get("bins", [])
    columns = ("confidence", "accuracy", "low", "high")
    held = [[number(each, name) for name in columns] for each in bins]
    known = np.array([row for row in held if all(map(math.isfinite, row))]).reshape(-1, 4)

    def curve(name: str) -> Curve:
        return Curve(name=name, x=known[:, 0], y=known[:, columns.index(name)])

    ece, null = number(figures, "calibration", "ece"), figures["calibration"].get("null", {})
    return Plot(
        key="task-reliability",
        title="Reliability",
        unit="share that is right",
        series=[
            Series(
                label="this run",
                curve=curve("accuracy"),
                color=1,
                dots=True,
                value=f"ECE {ece:.3f}",
            ),
            Series(label="", curve=curve("low"), color=0),
            Series(label="", curve=curve("high"), color=0),
        ]
        if len(known)
        else [],
        form="percent",
        bottom=0.0,
        axis="confidence",
        note="By how sure the label is, in 15 bins. Grey: where 95% of calibrated models of as many"
        f" examples are; their ECE is {number(null, 'low'):.3f} to {number(null, 'high'):.3f}.",
    )
