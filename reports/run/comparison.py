"""The page of several runs side by side: verdicts, what differs in their settings, curves."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from gesso.records.quantities import duration, short, value_text
from gesso.reports.facts import (
    Curve,
    RunFacts,
    last_evaluation,
    latest,
    tokens_seen,
    training_seconds,
    typical,
)
from gesso.reports.page import Page, Row, Section, Table, flat, groups, setting_text
from gesso.reports.plots import COLORS, Plot, Series, draw_all
from gesso.reports.run.evaluations import tasks_compared
from gesso.reports.run.inputs import environment
from gesso.reports.run.summary import status, utilization, warnings, when

_COMPONENTS = 12  # small figures; the largest components
_COLUMNS = 6  # settings side by side; more of them stand one below the other


def comparison_page(runs: Sequence[RunFacts], version: str) -> Page:
    """The page of two runs or more, in the order given."""
    names = _names(runs)
    colors = [i + 1 if i < COLORS else 0 for i in range(len(runs))]
    compared = tasks_compared(runs, names)
    sections = [
        _differences(runs, names, colors),
        *([compared] if compared.table else []),
        _curves(runs, names, colors),
        _components(runs, names, colors),
        Section(
            key="experiments",
            title="Experiments",
            trees=[(name, groups(r.experiment)) for name, r in zip(names, runs, strict=True)],
        ),
        Section(
            key="environments",
            title="Environments",
            columns=[
                (f"{name}: {title.lower()}", pairs)
                for name, run in zip(names, runs, strict=True)
                for title, pairs in environment(run)
            ],
        ),
    ]
    spans = list(dict.fromkeys(filter(None, map(when, runs))))
    return Page(
        title=" · ".join(names) if len(runs) <= 3 else f"{len(runs)} runs compared",
        lede=f"{len(runs)} runs side by side. Bold is the best of a column.",
        when=spans[0] if len(spans) == 1 else "",
        version=version,
        comparison=True,
        verdicts=_verdicts(runs, names, colors),
        warnings=_warnings(runs, names),
        sections=sections,
    )


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Names that differ: the experiments', or the folders' where those are the same."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = [run.folder.resolve().name for run in runs]
    return folders if len(set(folders)) == len(folders) else [str(run.folder) for run in runs]


def _warnings(runs: Sequence[RunFacts], names: Sequence[str]) -> list[str]:
    made = [
        f"{name}: {text}" for name, run in zip(names, runs, strict=True) for text in warnings(run)
    ]
    if len({run.corpus["store"] for run in runs if "store" in run.corpus}) > 1:
        made.append(
            "The runs read different token stores: their held-out text may differ, and losses per"
            " token do not compare where the tokenizers do. Bits per byte come closest."
        )
    return made


def _verdicts(runs: Sequence[RunFacts], names: Sequence[str], colors: Sequence[int]) -> Table:
    columns: list[tuple[str, Callable[[RunFacts], float], Callable[[float], str], Any]] = [
        ("Bits per byte", lambda r: last_evaluation(r, "bits_per_byte"), _number, min),
        ("Held-out loss", lambda r: last_evaluation(r, "loss"), _number, min),
        ("Training loss", lambda r: latest(r.train, "loss"), _number, min),
        ("Tokens seen", tokens_seen, short, None),
        ("Tokens/s", lambda r: typical(r.train, "tokens_per_second"), short, max),
        ("Time", training_seconds, duration, None),
    ]
    values = [[get(run) for run in runs] for _, get, _, _ in columns]
    rows = []
    for i, run in enumerate(runs):
        state = status(run).text
        cells = [names[i], state]
        best = []
        for (_, _, form, better), column in zip(columns, values, strict=True):
            known = [value for value in column if math.isfinite(value)]
            if better is not None and len(known) > 1 and column[i] == better(known):
                best.append(len(cells))
            cells.append(form(column[i]) if math.isfinite(column[i]) else "n/a")
        cells.append(utilization(run))
        rows.append(Row(cells=cells, color=colors[i], best=tuple(best)))
    heads = ("Run", "Status", *(head for head, *_ in columns), "MFU")
    return Table(heads=heads, rows=rows, text=(0, 1))


def _number(value: float) -> str:
    return value_text(value, "number")


def _differences(runs: Sequence[RunFacts], names: Sequence[str], colors: Sequence[int]) -> Section:
    flats = [flat(run.experiment) for run in runs]
    settings = [key for key in dict.fromkeys(k for each in flats for k in each) if key != "name"]
    values = {key: [each.get(key, "not recorded") for each in flats] for key in settings}
    differ = {key: v for key, v in values.items() if any(each != v[0] for each in v[1:])}
    if not differ:
        text = (
            f"All {len(settings)} settings are the same: these are repetitions of one experiment."
        )
        return Section(key="differences", title="What differs", text=text)
    if len(differ) <= _COLUMNS:
        heads = ("Run", *differ)
        rows = [
            Row(
                cells=[name, *(setting_text(column[i]) for column in differ.values())],
                color=colors[i],
            )
            for i, name in enumerate(names)
        ]
    else:
        heads = ("Setting", *names)
        rows = [Row(cells=[key, *map(setting_text, each)]) for key, each in differ.items()]
    return Section(
        key="differences",
        title="What differs",
        text=f"{len(settings) - len(differ)} settings are the same in all runs.",
        table=Table(heads=heads, rows=rows, text=tuple(range(len(heads)))),
    )


def _curves(runs: Sequence[RunFacts], names: Sequence[str], colors: Sequence[int]) -> Section:
    def of(key: str, kind: Literal["train", "heldout"]) -> list[Series]:
        def get(run: RunFacts) -> Curve:
            return run.train_curve(key) if kind == "train" else run.heldout_curve(key)

        return [
            Series(label=name, curve=get(run), color=color, dots=kind == "heldout")
            for name, run, color in zip(names, runs, colors, strict=True)
        ]

    smoothed: dict[str, Any] = {"smoothing": "window"}
    figures = draw_all(
        [
            Plot(key="bits", title="Held-out bits per byte", unit="bits per byte",
                 series=of("bits_per_byte", "heldout")),
            Plot(key="heldout", title="Held-out loss", unit="nats per token",
                 series=of("loss", "heldout")),
            Plot(key="loss", title="Training loss", unit="nats per token",
                 series=of("loss", "train"), settle="tail", **smoothed),
            Plot(key="norm", title="Gradient norm", unit="log scale",
                 series=of("grad_norm", "train"), scale="log", **smoothed),
            Plot(key="rate", title="Learning rate", unit="", bottom=0.0,
                 series=of("learning_rate", "train")),
            Plot(key="speed", title="Throughput", unit="tokens/s", form="short", bottom=0.0,
                 series=of("tokens_per_second", "train"), **smoothed),
            Plot(key="wait", title="Waiting for data", unit="share of time", form="percent",
                 bottom=0.0, series=of("data_wait_fraction", "train"), **smoothed),
            Plot(key="mfu", title="Model FLOPs utilization", unit="share of peak", form="percent",
                 bottom=0.0, series=of("mfu", "train"), **smoothed),
        ]
    )  # fmt: skip
    legend = list(zip(names, colors, strict=True)) if figures else []
    return Section(key="curves", title="Curves", figures=figures, legend=legend)


def _components(runs: Sequence[RunFacts], names: Sequence[str], colors: Sequence[int]) -> Section:
    every = list(dict.fromkeys(name for run in runs for name in run.components))
    shown = every[:_COMPONENTS]
    figures = draw_all(
        Plot(
            key=f"component-{i}",
            title=component,
            unit="bits per byte",
            series=[
                Series(
                    label=name,
                    curve=run.heldout_curve("components", component, "bits_per_byte"),
                    color=color,
                    dots=True,
                )
                for name, run, color in zip(names, runs, colors, strict=True)
            ],
        )
        for i, component in enumerate(shown)
    )
    left_out = f" The {len(shown)} largest of {len(every)}." if len(every) > len(shown) else ""
    return Section(
        key="components",
        title="Held out, by component",
        text="Bits per byte of each component's held-out documents." + left_out if figures else "",
        figures=figures,
        size="small",
        legend=list(zip(names, colors, strict=True)) if figures else [],
    )
