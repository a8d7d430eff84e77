"""The terms of a run's objective: what each reached on held-out text, beside a unigram model."""

import math

from gesso.records.quantities import short, value_text
from gesso.reports.facts import RunFacts, number
from gesso.reports.page import Bar, Hero, Row, Section, Table
from gesso.reports.plots import Figure, Level, Plot, Series, draw


def terms(run: RunFacts) -> Section:
    """A figure and a row per term; empty for a run that has one term and no more to say."""
    found = _terms(run)
    if len(found) < 2:
        return Section(key="terms", title="Terms of the objective")
    rows = []
    for name, each in found.items():
        form = "percent" if name.endswith("accuracy") else "number"
        beside = unigram_of(each)
        rows.append(
            Row(
                cells=[
                    name,
                    value_text(number(each, "mean"), form),
                    value_text(beside, form) if math.isfinite(beside) else "",
                    value_text(number(each, "perplexity"), "number")
                    if "perplexity" in each
                    else "",
                    short(number(each, "count", default=0.0)),
                ]
            )
        )
    figures = [draw(_plot(run, name, each)) for name, each in found.items()]
    return Section(
        key="terms",
        title="Terms of the objective",
        text="On held-out text, each over its own places. The unigram model knows how often each id"
        " is a target in training, and guesses the most frequent.",
        figures=[figure for figure in figures if isinstance(figure, Figure)],
        table=Table(heads=("Term", "Held out", "Unigram model", "Perplexity", "Places"), rows=rows),
    )


def terms_hero(run: RunFacts) -> Hero | None:
    """The first term against its unigram model, where there are no bits per byte to show."""
    found = _terms(run)
    if not found:
        return None
    name, first = next(iter(found.items()))
    ours, beside = number(first, "mean"), unigram_of(first)
    if not (math.isfinite(ours) and math.isfinite(beside) and beside > 0):
        return None
    share = f"{abs(1 - ours / beside):.0%} {'less' if ours < beside else 'more'}"
    longest = max(ours, beside)
    return Hero(
        value=f"{ours:.3f}",
        unit=f"nats per target ({name})",
        text=f"on held-out text, after {int(run.evaluations[-1]['step']):,} steps: {share} than a"
        " unigram model of the targets needs.",
        bars=[
            Bar(label="this run", value=f"{ours:.3f}", percent=100 * ours / longest, ours=True),
            Bar(label="unigram", value=f"{beside:.3f}", percent=100 * beside / longest),
        ],
    )


def first_term(run: RunFacts) -> str:
    """The term that held-out loss is of, where train records have it too; else ""."""
    first = next(iter(_terms(run)), "")
    return first if all(first in record for record in run.train) else ""


def unigram_of(term: dict[str, float]) -> float:
    """What a unigram model reaches of a term's own quantity; NaN where none was measured."""
    likelihood = number(term, "unigram_nll")
    return likelihood if math.isfinite(likelihood) else number(term, "unigram_accuracy")


def _terms(run: RunFacts) -> dict[str, dict[str, float]]:
    found = run.evaluations[-1].get("terms") if run.evaluations else None
    if not isinstance(found, dict):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def _plot(run: RunFacts, name: str, term: dict[str, float]) -> Plot:
    share, beside = name.endswith("accuracy"), unigram_of(term)
    levels = [Level(label="unigram model", value=beside)] if math.isfinite(beside) else []
    curve = run.heldout_curve("terms", name, "mean")
    return Plot(
        key=f"term-{name}",
        title=name.replace("_", " "),
        unit="share of targets" if share else "nats per target" if "perplexity" in term else "mean",
        form="percent" if share else "number",
        series=[Series(label="held out", curve=curve, color=2, dots=True)],
        levels=levels,
    )
