"""The curves of a run's page: training, and held-out text beside the baselines."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gesso.records.quantities import Unit, value_text
from gesso.reports.facts import BASELINES, RunFacts, baselines, number
from gesso.reports.page import Row, Section, Table
from gesso.reports.plots import Level, Plot, Series, component_colors, draw_all
from gesso.reports.run.terms import first_term

LOSS = "nats per token"
HELDOUT_FIGURES: dict[str, tuple[str, Unit]] = {
    "bits_per_byte": ("Bits per byte", "number"),
    "loss": ("Loss", "number"),
    "perplexity": ("Perplexity / token", "number"),
    "word_perplexity": ("Perplexity / word", "number"),
    "tokens": ("Tokens", "short"),
    "bytes": ("Bytes", "short"),
    "words": ("Words", "short"),
}


def training(run: RunFacts) -> Section:
    def one(key: str, title: str, unit: str, **options: Any) -> Plot:
        series = [Series(label=title, curve=run.train_curve(key), color=1)]
        return Plot(key=key, title=title, unit=unit, series=series, **options)

    heldout_loss = Series(label="held out", curve=run.heldout_curve("loss"), color=2, dots=True)
    training_loss = Series(label="training", curve=run.train_curve("loss"), color=1)
    # What is trained may be more than what held-out loss is of: several terms, smoothed labels.
    first = first_term(run)
    alone = first and not np.allclose(run.train_curve(first).y, training_loss.curve.y, rtol=1e-3)
    of_first = Series(label="training", curve=run.train_curve(first), color=1)
    by_component = [
        Series(label=name, curve=run.train_curve("components", name), color=color)
        for name, color in component_colors(run).items()
    ]
    if len(by_component) == 1:
        by_component = []  # the figure beside it shows the same
    smoothed: dict[str, Any] = {"smoothing": "window", "settle": "tail"}
    figures = draw_all(
        [
            Plot(
                key="loss",
                title="Loss",
                unit=LOSS,
                series=[training_loss] if alone else [training_loss, heldout_loss],
                **smoothed,
            ),
            Plot(
                key="loss-first",
                title=first.replace("_", " "),
                unit=LOSS,
                series=[of_first, heldout_loss] if alone else [],
                **smoothed,
            ),
            Plot(
                key="loss-components",
                title="Training loss by component",
                unit=LOSS,
                series=by_component,
                **smoothed,
            ),
            one("grad_norm", "Gradient norm", "log scale", scale="log", smoothing="window"),
            one("learning_rate", "Learning rate", "", bottom=0.0),
            one("tokens_per_second", "Throughput", "tokens/s", form="short", bottom=0.0),
            one(
                "data_wait_fraction",
                "Waiting for data",
                "share of time",
                form="percent",
                bottom=0.0,
            ),
            one("mfu", "Model FLOPs utilization", "share of peak", form="percent", bottom=0.0),
        ]
    )
    return Section(
        key="training",
        title="Training",
        text="Faint lines are the logged steps, strong ones their moving mean." if figures else "",
        figures=figures,
    )


def heldout(run: RunFacts) -> Section:
    if not run.evaluations:
        return Section(key="heldout", title="Held out")
    colors = component_colors(run)
    split = " by component" if len(colors) > 1 else ""

    def by_component(figure: str) -> list[Series]:
        if not split:
            return [Series(label="all", curve=run.heldout_curve(figure), color=1, dots=True)]
        return [
            Series(
                label=name,
                curve=run.heldout_curve("components", name, figure),
                color=color,
                dots=True,
            )
            for name, color in colors.items()
        ]

    levels = [Level(label=BASELINES[key], value=value) for key, value in baselines(run)]
    last = run.evaluations[-1]
    # What an objective that does not predict texts whole has not: figures per byte and per word.
    figures = [name for name in HELDOUT_FIGURES if last.get(name, math.nan) is not None]

    def row(name: str, path: Sequence[str], **options: Any) -> Row:
        cells = [
            value_text(number(last, *path, figure), HELDOUT_FIGURES[figure][1])
            for figure in figures
        ]
        return Row(cells=[name, *cells], **options)

    rows = [
        row(name, ("components", name), color=color)
        for name, color in colors.items()
        if math.isfinite(number(last, "components", name, "loss"))
    ]
    return Section(
        key="heldout",
        title="Held out",
        text="Documents set apart by a hash of their content, never trained on. The table is of the"
        f" last evaluation, after {int(last['step']):,} steps.",
        figures=draw_all(
            [
                Plot(
                    key="heldout-loss",
                    title=f"Held-out loss{split}",
                    unit=LOSS,
                    series=by_component("loss"),
                ),
                Plot(
                    key="heldout-bits",
                    title=f"Bits per byte{split}",
                    unit="bits per byte",
                    series=by_component("bits_per_byte"),
                    levels=levels,
                    note="Dashed: what the baselines need, overall." if levels else "",
                ),
            ]
        ),
        table=Table(
            heads=("Component", *(HELDOUT_FIGURES[figure][0] for figure in figures)),
            rows=[*rows, row("All", (), total=True)],
        ),
    )  # fmt: skip
