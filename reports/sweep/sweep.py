"""The page of a sweep: results, choices, curves, and where the runs carry one, a scaling law."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso.records.quantities import short, value_text
from gesso.reports.facts import NotARun, RunFacts, read_run, tokens_seen
from gesso.reports.page import Page, Row, Section, Stat, Table, setting_text
from gesso.reports.plots import COLORS, Figure
from gesso.reports.report import gesso_version, render
from gesso.reports.sweep.plots import (
    by_compute,
    by_tokens,
    curves,
    importance,
    parallel,
    predictions,
)
from gesso.reports.sweep.scaling import Law, Point, fit, problems, variance_shares
from gesso.storage.files import write_durably

_LAW = "L(N, D) = E + A / N^a + B / D^b"
_TOLD = {
    "E": "irreducible loss",
    "A": "what the parameters cost",
    "a": "how fast that falls with parameters",
    "B": "what the tokens cost",
    "b": "how fast that falls with tokens",
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep. state: complete, pruned, fail, running. value: of the metric, if any.
    choice: {setting, or name of a bundle: value}. parameters: those that multiply (models.count's
    "matmul"), which a scaling law needs; 0: not known."""

    number: int
    state: str
    value: float | None
    choice: Mapping[str, Any]
    folder: Path
    command: str = ""
    parameters: int = 0


def write_sweep_report(
    name: str,
    trials: Sequence[Trial],
    output: str | os.PathLike[str],
    *,
    metric: str,
    extra: Sequence[Section] = (),
    bootstraps: int = 200,
) -> Path:
    """Write the page of a sweep to `output`, and return its path. metric: what its trials are
    judged by, the less the better. extra: sections put behind the law. bootstraps: for
    its intervals."""
    path = Path(output)
    page = sweep_page(name, trials, metric=metric, extra=extra, bootstraps=bootstraps)
    write_durably(path, render(page))
    return path


def sweep_page(
    name: str,
    trials: Sequence[Trial],
    *,
    metric: str,
    extra: Sequence[Section] = (),
    bootstraps: int = 200,
) -> Page:
    """The page; sections without facts are left out."""
    ended = sorted(
        (t for t in trials if t.value is not None and math.isfinite(t.value)),
        key=lambda t: t.value or 0.0,
    )
    runs = {t.number: run for t in trials if (run := _run(t.folder)) is not None}
    counts = {state: sum(t.state == state for t in trials) for state in ("complete", "pruned")}
    failed = [t for t in trials if t.state == "fail"]
    sections = [
        _choices(ended, runs, metric),
        law_section(points(ended, runs), bootstraps=bootstraps),
        *extra,
        _results(trials, ended, metric),
    ]
    stats = [
        Stat(label="Trials", value=str(len(trials)), note=_counts(counts, len(failed))),
        Stat(label="Tokens trained on", value=short(sum(map(tokens_seen, runs.values())))),
    ]
    if ended:
        best = value_text(ended[0].value or 0.0, "number")
        choice = ", ".join(f"{_short(k)} {setting_text(v)}" for k, v in ended[0].choice.items())
        stats.insert(0, Stat(label=f"Best {metric}", value=best, note=choice))
    return Page(
        title=name,
        lede=f"A sweep of {len(trials)} runs, judged by held-out {metric}.",
        when="",
        version=gesso_version(),
        comparison=True,
        stats=stats,
        warnings=[
            f"Trial {t.number} failed: see {t.folder.name}.log beside its folder." for t in failed
        ],
        sections=[s for s in sections if s.figures or s.table or s.text],
    )


def points(trials: Sequence[Trial], runs: Mapping[int, RunFacts]) -> list[Point]:
    """The ends of the runs that came to their own: what each was, saw, and reached."""
    found = []
    for trial in trials:
        run = runs.get(trial.number)
        if trial.state != "complete" or run is None or not run.evaluations or not trial.parameters:
            continue
        tokens, loss = tokens_seen(run), float(run.evaluations[-1]["loss"])
        if tokens > 0 and math.isfinite(loss):
            found.append(Point(parameters=float(trial.parameters), tokens=tokens, loss=loss))
    return found


def law_section(ends: Sequence[Point], *, bootstraps: int) -> Section:
    """The scaling law through the ends of runs; without figures where they carry none."""
    title = "Scaling law"
    if wrong := problems(ends):
        varied = len({p.parameters for p in ends}) > 1
        text = f"None could be fitted: {wrong}." if varied else ""
        return Section(key="law", title=title, text=text)
    law = fit(ends, bootstraps=bootstraps)
    spent = max(6 * p.parameters * p.tokens for p in ends)
    return Section(
        key="law",
        title=title,
        text=_words(ends, law),
        figures=[by_tokens(ends, law), by_compute(ends, law), predictions(ends, law)],
        table=_values(law),
        folded=[(f"The best use of a budget, by the law (the largest run: {_flops(spent)} FLOPs)",
                 _budgets(law, spent))],
    )  # fmt: skip


def _words(ends: Sequence[Point], law: Law) -> str:
    full, none = law.left_out["irreducible"], law.left_out["none"]
    text = (
        f"{_LAW} through the ends of {len(ends)} runs, N parameters that multiply and D tokens. At"
        f" runs left out of the fit it errs by {law.left_out[law.form]:.1%}. "
    )
    if law.form == "none":
        return text + (
            f"An irreducible loss E does not lower that ({full:.1%}), so these runs cannot tell it"
            " from 0: the law holds in their range and says nothing about much larger runs."
        )
    low, high = law.interval("E")
    wide = (high - low) > 0.25 * law.values["E"]
    return text + (
        f"Without the irreducible loss E it errs by {none:.1%}. "
        + ("E's interval is wide: what lies far beyond these runs is not known." if wide else "")
    )


def _values(law: Law) -> Table:
    rows = []
    for name, value in law.values.items():
        low, high = law.interval(name)
        cells = [name, _TOLD[name], f"{value:.4g}", f"{low:.4g} to {high:.4g}"]
        if name == "E" and law.form == "none":
            cells[2:] = ["0", "not fitted"]
        rows.append(Row(cells=cells))
    return Table(heads=("", "What it says", "Fitted", "90% of bootstraps"), rows=rows, text=(0, 1))


def _budgets(law: Law, spent: float) -> Table:
    rows = []
    for times in (0.1, 1, 10):
        best = law.optimum(times * spent)
        cells = [_flops(times * spent)]
        for name in ("parameters", "tokens"):
            cells.append(" ".join((short(best[name][0]), _between(*best[name][1:], form=short))))
        size, tokens = best["parameters"][0], best["tokens"][0]
        if min(abs(size / edge - 1) for edge in law.sizes) < 1e-6 or tokens > 0.99 * law.longest:
            cells[0] += " (at the edge of what is considered)"
        cells.append(f"{best['loss'][0]:.3f} {_between(*best['loss'][1:], form='{:.3f}'.format)}")
        rows.append(Row(cells=cells))
    heads = ("FLOPs", "Parameters", "Tokens", "Loss")
    return Table(heads=heads, rows=rows)


def _flops(count: float) -> str:
    return f"{count:.1e}".replace("e+", "e")


def _between(low: float, high: float, *, form: Any) -> str:
    return f"({form(low)} to {form(high)})" if math.isfinite(low + high) else "(not known)"


def _choices(ended: Sequence[Trial], runs: Mapping[int, RunFacts], metric: str) -> Section:
    if len(ended) < 2:
        return Section(key="choices", title="Choices")
    asked = sorted(ended, key=lambda t: t.number)
    choices, values = [t.choice for t in asked], [float(t.value or 0.0) for t in asked]
    shares = variance_shares(choices, values)
    figures: list[Figure] = [parallel(choices, values, name=metric), importance(shares)]
    # The steps are on the axis already.
    first = next((name for name in shares if name != "steps"), "steps")
    groups = list(
        dict.fromkeys(
            setting_text(t.choice.get(first)) for t in sorted(ended, key=lambda t: t.number)
        )
    )
    colors = {group: i + 1 if i < COLORS else 0 for i, group in enumerate(groups)}
    lines = [
        (
            runs[t.number].heldout_curve(*metric.split(".")),
            colors[setting_text(t.choice.get(first))],
        )
        for t in ended
        if t.number in runs
    ]
    drawn = [(curve, number) for curve, number in lines if len(curve.x)]
    if drawn:
        figures.insert(0, curves(drawn, name=metric))
    return Section(
        key="choices",
        title="Choices",
        text=f"Colours of the curves: {_short(first)}.",
        figures=figures,
        legend=[(group, number) for group, number in colors.items() if number],
    )


def _results(trials: Sequence[Trial], ended: Sequence[Trial], metric: str) -> Section:
    settings = list(dict.fromkeys(k for t in trials for k in t.choice))
    rest = [t for t in trials if t not in ended]
    rows = [
        Row(
            cells=[
                str(t.number),
                t.state,
                value_text(t.value, "number") if t.value is not None else "",
                *(setting_text(t.choice.get(k)) for k in settings),
            ],
            best=(2,) if ended and t is ended[0] else (),
        )
        for t in (*ended, *rest)
    ]
    commands = [Row(cells=[str(t.number), t.command]) for t in (*ended, *rest) if t.command]
    return Section(
        key="results",
        title="Results",
        text="The best first.",
        table=Table(heads=("Trial", "State", metric, *map(_short, settings)), rows=rows, text=(1,)),
        folded=[("Commands", Table(heads=("Trial", "Command"), rows=commands, text=(1,)))]
        if commands
        else (),
    )


def _run(folder: Path) -> RunFacts | None:
    try:
        return read_run(folder)
    except (NotARun, OSError):
        return None


def _counts(counts: Mapping[str, int], failed: int) -> str:
    every = {"complete": counts["complete"], "stopped early": counts["pruned"], "failed": failed}
    return ", ".join(f"{n} {state}" for state, n in every.items() if n)


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")
