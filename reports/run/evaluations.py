"""What `gesso evaluate` kept of a run, on its page: tasks and baselines, reliability, layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gesso.records.quantities import Unit, value_text
from gesso.reports.facts import Curve, RunFacts, number
from gesso.reports.page import Row, Section, Table
from gesso.reports.plots import Plot, Series, draw

# Figures of layers, of evaluation/contextuality/contextuality.py: (key, title, series by name).
_LAYERS = (
    (
        "self",
        "The same word in other sentences",
        {"self_similarity": "same word", "random_similarity": "random words"},
    ),
    (
        "within",
        "Words within a sentence",
        {"within_sentence": "with their mean", "random_similarity": "random words"},
    ),
    (
        "over",
        "Above random words",
        {"self_over": "same word", "within_over": "within a sentence"},
    ),
    (
        "explained",
        "Explained by one component, centred",
        {"explained_centred": "a word's vectors", "random_centred": "random words"},
    ),
    (
        "explained-as-is",
        "Explained by one component, uncentred",
        {"explained_uncentred": "a word's vectors", "random_uncentred": "random words"},
    ),
)


class Result(NamedTuple):
    """One figure of a task: of what, how, its value, the ends of its 95% interval (NaN where there
    are none) and what chance gives."""

    of: str
    how: str
    value: float
    low: float
    high: float
    chance: float
    form: Unit
    step: int


def tasks(run: RunFacts) -> Section:
    """A row per figure of every task, file of questions or file of exercises, and how far the
    confidence of a chosen option can be trusted."""
    rows = [
        Row(
            cells=[
                each.of,
                each.how,
                value_text(each.value, each.form),
                _ends(each),
                value_text(each.chance, each.form) if math.isfinite(each.chance) else "",
                f"{each.step:,}",
            ]
        )
        for each in results(run)
    ]
    heads = ("Task", "Figure", "Value", "95% interval", "Chance", "Step")
    figures = [draw(_reliability(i, each)) for i, each in enumerate(_of(run, "choices"))]
    return Section(
        key="tasks",
        title="Tasks",
        text="What gesso evaluate found. The interval is of the examples drawn again, by group"
        " where they have one; of lm-evaluation-harness it is 1.96 standard errors.",
        figures=[figure for figure in figures if figure is not None],
        table=Table(heads=heads, rows=rows, text=(0, 1)) if rows else None,
    )


def layers(run: RunFacts) -> Section:
    """Contextuality by layer, of the last step it was measured at."""
    title = "Contextuality by layer"
    found = max(_of(run, "contextuality"), key=lambda each: each["step"], default=None)
    if found is None or not isinstance(found["figures"].get("layers"), list):
        return Section(key="layers", title=title)
    by_layer = [each for each in found["figures"]["layers"] if isinstance(each, dict)]
    figures = [draw(_by_layer(*each, by_layer)) for each in _LAYERS]
    words, sentences = (number(found["figures"], key) for key in ("words", "sentences"))
    return Section(
        key="layers",
        title=title,
        text=f"After {found['step']:,} steps: cosines of {value_text(words, 'short')} words in"
        f" {value_text(sentences, 'short')} sentences, and of as many random words; the share of"
        " the variance of a word's vectors that one component explains. Layer 0 is the embeddings."
        " A word whose vectors are the same everywhere has 1, and random words what all vectors of"
        " a layer share.",
        figures=[figure for figure in figures if figure is not None],
        size="small",
    )


def tasks_compared(runs: Sequence[RunFacts], names: Sequence[str]) -> Section:
    """A row per figure, a column per run: the last step's of each."""
    values: dict[tuple[str, str], dict[int, Result]] = {}
    for i, run in enumerate(runs):
        for each in results(run):
            values.setdefault((each.of, each.how), {})[i] = each
    rows = []
    for (of, how), by_run in values.items():
        cells = [
            f"{value_text(by_run[i].value, by_run[i].form)} {_ends(by_run[i], short=True)}".strip()
            if i in by_run
            else ""
            for i in range(len(runs))
        ]
        chance = next(iter(by_run.values()))
        baseline = value_text(chance.chance, chance.form) if math.isfinite(chance.chance) else ""
        rows.append(Row(cells=[of, how, *cells, baseline]))
    heads = ("Task", "Figure", *names, "Chance")
    return Section(
        key="tasks",
        title="Tasks",
        text="With 95% intervals of each alone. Whether two runs differ says gesso evaluate"
        " --against, which draws the same examples of both.",
        table=Table(heads=heads, rows=rows, text=(0, 1)) if rows else None,
    )


def results(run: RunFacts) -> Iterator[Result]:
    """The figures of all tasks, those of later steps later."""
    for record in _of(run, "choices"):
        chance = number(record["figures"], "chance")
        for rule, each in _parts(record, "rules"):
            ends = number(each, "low"), number(each, "high")
            how = f"right, by {rule}"
            value = number(each, "accuracy")
            yield Result(record["of"], how, value, *ends, chance, "percent", record["step"])
    for record in _of(run, "answers"):
        for name, each in _parts(record, "scores"):
            ends = number(each, "low"), number(each, "high")
            form: Unit = "number" if name == "bleu" else "percent"
            value = number(each, "value")
            yield Result(record["of"], name, value, *ends, math.nan, form, record["step"])
    for record in _of(run, "harness"):
        for part in ("tasks", "groups"):
            for name, figures in _parts(record, part):
                for metric in figures:
                    value = number(figures, metric)
                    if "_stderr," in metric or not math.isfinite(value):
                        continue
                    half = 1.96 * number(figures, metric.replace(",", "_stderr,", 1))
                    how = metric.removesuffix(",none")
                    ends = value - half, value + half
                    yield Result(name, how, value, *ends, math.nan, "number", record["step"])


def _of(run: RunFacts, kind: str) -> list[dict[str, Any]]:
    return [each for each in run.kept if each["kind"] == kind]


def _parts(record: Mapping[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    parts = record["figures"].get(key)
    if isinstance(parts, dict):
        yield from ((name, each) for name, each in parts.items() if isinstance(each, dict))


def _ends(each: Result, *, short: bool = False) -> str:
    if not (math.isfinite(each.low) and math.isfinite(each.high)):
        return ""
    low, high = value_text(each.low, each.form), value_text(each.high, each.form)
    return f"({low} – {high})" if short else f"{low} to {high}"


def _reliability(place: int, record: Mapping[str, Any]) -> Plot:
    ends = np.array([0.0, 1.0])
    series = [Series(label="", curve=Curve(name="", x=ends, y=ends), color=0)]
    for color, (rule, each) in enumerate(_parts(record, "rules"), 1):
        bins = each.get("calibration", {}).get("bins", [])
        points = [(number(b, "confidence"), number(b, "accuracy")) for b in bins]
        known = sorted(pair for pair in points if all(map(math.isfinite, pair)))
        if known:
            x, y = np.array(known).T
            curve = Curve(name=rule, x=x, y=y)
            ece = f"ECE {number(each, 'calibration', 'ece'):.3f}"
            line = {"curve": curve, "color": color, "value": ece}
            series.append(Series(label=f"by {rule}", dots=True, **line))
    return Plot(
        key=f"reliability-{place}",
        title=f"Reliability, {record['of']}",
        unit="share that is right",
        series=series,
        form="percent",
        bottom=0.0,
        axis="confidence",
        note="Grey: as often right as it is sure.",
    )


def _by_layer(
    key: str, title: str, names: Mapping[str, str], by_layer: Sequence[Mapping[str, Any]]
) -> Plot:
    places = np.arange(len(by_layer))
    series = [
        Series(
            label=label,
            curve=Curve(name=name, x=places, y=np.array([number(each, name) for each in by_layer])),
            color=color,
            dots=True,
        )
        for color, (name, label) in enumerate(names.items(), 1)
    ]
    unit = "share of variance" if key.startswith("explained") else "cosine"
    return Plot(
        key=f"layers-{key}", title=title, unit=unit, series=series, bottom=0.0, axis="layer"
    )
