"""The figures of a sweep's page that are not curves over steps of one run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gesso.records.quantities import tick
from gesso.reports.facts import Curve
from gesso.reports.plots import Figure, color, sketch
from gesso.reports.sweep.scaling import Law, Point


def curves(lines: Sequence[tuple[Curve, int]], *, name: str) -> Figure:
    """A metric over steps of every trial: (curve, colour)."""

    def draw(axes: Axes) -> None:
        for curve, number in lines:
            axes.plot(
                curve.x,
                curve.y,
                color=color(number),
                linewidth=1.2,
                marker="o",
                markersize=2.6,
                markeredgewidth=0,
                alpha=0.85,
            )
        _plain(axes, x="step")
        axes.set_xlim(left=0)

    label = f"{name} over steps of {len(lines)} trials"
    return sketch("sweep-curves", "Held out", name, draw=draw, label=label)


def parallel(
    choices: Sequence[Mapping[str, object]], metric: Sequence[float], *, name: str
) -> Figure:
    """A line per trial through what it chose and what came of it; the best tenth in colour."""
    y = np.asarray(metric, np.float64)
    settings = [k for k in choices[0] if len({str(each.get(k)) for each in choices}) > 1]
    columns = [_places([each.get(k) for each in choices]) for k in settings]
    span = float(np.ptp(y)) or 1.0
    heights = [places for places, _ in columns] + [(y - y.min()) / span]
    best = y <= np.quantile(y, 0.1)

    def draw(axes: Axes) -> None:
        for i in np.argsort(-y):
            path = [places[i] for places in heights]
            width, drawn = (1.8, color(1)) if best[i] else (0.8, color(0))
            axes.plot(range(len(path)), path, color=drawn, linewidth=width)
        for at, (_, labels) in enumerate([*columns, ([], [(0.0, y.min()), (1.0, y.max())])]):
            axes.axvline(at, color="#b00003", linewidth=1, zorder=0)
            for height, value in labels:
                text = tick(float(value)) if isinstance(value, int | float) else str(value)
                side = "right" if at == len(columns) else "left"
                offset = -5 if side == "right" else 5
                axes.annotate(
                    text, (at, height), xytext=(offset, 0), textcoords="offset points",
                    ha=side, va="center", color="#b00002", fontsize=8.5,
                ).set_gid(f"level-{at}-{height:.3f}")  # fmt: skip
        axes.set_xticks(range(len(heights)), [_last(each) for each in (*settings, name)])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_ylim(-0.06, 1.06)
        axes.set_xlim(-0.05, len(heights) - 0.95)
        ticks = axes.get_xticklabels()
        ticks[0].set(ha="left")
        ticks[-1].set(ha="right")

    label = f"{len(y)} trials by {', '.join(settings)} and {name}"
    note = "Every line is a trial; the best tenth is in colour."
    return sketch("sweep-parallel", "Choices", name, draw=draw, label=label, note=note)


def importance(shares: Mapping[str, float]) -> Figure:
    """Bars: how much of the variance each setting explains alone."""

    def draw(axes: Axes) -> None:
        names = list(shares)[:8][::-1]
        axes.barh(range(len(names)), [shares[each] for each in names], color=color(1), height=0.2)
        for at, each in enumerate(names):
            axes.annotate(
                f"{_last(each)}  {shares[each]:.0%}", (0, at + 0.1), xytext=(1, 4),
                textcoords="offset points", va="bottom", color="#b00001", fontsize=9.5,
            )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.5, max(len(names), 2) - 0.4)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))

    label = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    note = "Of the variance between trials, what a setting's values explain alone."
    return sketch("sweep-importance", "Importance", "share", draw=draw, label=label, note=note)


def by_tokens(points: Sequence[Point], law: Law) -> Figure:
    """Loss over tokens, a fitted line with its band for each size of model."""
    sizes = sorted({p.parameters for p in points})
    lengths = np.geomspace(*_reach([p.tokens for p in points]), 60)

    def draw(axes: Axes) -> None:
        for i, size in enumerate(sizes):
            own = [p for p in points if p.parameters == size]
            drawn = color(i + 1)
            one = np.full_like(lengths, size)
            low, high = law.band(one, lengths)
            axes.fill_between(lengths, low, high, color=drawn, alpha=0.12, linewidth=0)
            axes.plot(lengths, law.loss(one, lengths), color=drawn, linewidth=1.3)
            axes.plot(
                [p.tokens for p in own],
                [p.loss for p in own],
                "o",
                color=drawn,
                markersize=4,
                markeredgewidth=0,
            )
        _logs(axes, x="tokens")

    legend = [(f"{tick(size)} parameters", i + 1, "") for i, size in enumerate(sizes)]
    label = f"Loss of {len(points)} runs over tokens, with the fitted law"
    note = "Points: runs. Lines: the law, with 90% of its bootstraps."
    return sketch(
        "law-tokens", "Loss by tokens", "nats per token, log scales", draw=draw, label=label,
        legend=legend, note=note,
    )  # fmt: skip


def by_compute(points: Sequence[Point], law: Law) -> Figure:
    """Loss over training compute, and the best that the law says a budget can buy."""
    sizes = sorted({p.parameters for p in points})
    flops = [6 * p.parameters * p.tokens for p in points]
    budgets = np.geomspace(min(flops), 10 * max(flops), 60)
    best = [law.optimum(float(budget)).get("loss", (np.nan,) * 3) for budget in budgets]
    middle, low, high = np.array(best).T

    def draw(axes: Axes) -> None:
        axes.fill_between(budgets, low, high, color="#b00002", alpha=0.15, linewidth=0)
        known = budgets <= max(flops)
        axes.plot(budgets[known], middle[known], color="#b00001", linewidth=1.4)
        axes.plot(budgets, middle, color="#b00001", linewidth=1.4, dashes=(3, 3))
        for point, spent in zip(points, flops, strict=True):
            drawn = color(sizes.index(point.parameters) + 1)
            axes.plot([spent], [point.loss], "o", color=drawn, markersize=4, markeredgewidth=0)
        _logs(axes, x="FLOPs (6 × parameters × tokens)")

    label = f"Loss of {len(points)} runs over compute, and the law's optimum"
    note = (
        "Line: the least loss the law gives a budget, dashed beyond the largest run, with 90% of"
        " its bootstraps. Sizes and lengths up to 4 times the"
        " largest are considered."
    )
    return sketch(
        "law-compute", "Loss by compute", "nats per token, log scales", draw=draw, label=label,
        note=note,
    )  # fmt: skip


def predictions(points: Sequence[Point], law: Law) -> Figure:
    """What the law says of each run against what the run measured."""
    sizes = sorted({p.parameters for p in points})
    measured = np.array([p.loss for p in points])
    said = law.loss(np.array([p.parameters for p in points]), np.array([p.tokens for p in points]))

    def draw(axes: Axes) -> None:
        ends = [min(measured.min(), said.min()) * 0.98, max(measured.max(), said.max()) * 1.02]
        axes.plot(ends, ends, color="#b00002", linewidth=1, dashes=(3, 3))
        for x, y, point in zip(measured, said, points, strict=True):
            drawn = color(sizes.index(point.parameters) + 1)
            axes.plot([x], [y], "o", color=drawn, markersize=4, markeredgewidth=0)
        _plain(axes, x="measured")
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)

    note = f"Mean error {law.error:.1%}; of runs left out of the fit {law.left_out[law.form]:.1%}."
    return sketch(
        "law-predicted", "Law against runs", "nats per token", draw=draw,
        label="Predicted over measured loss", note=note,
    )  # fmt: skip


def _places(values: Sequence[object]) -> tuple[np.ndarray, list[tuple[float, object]]]:
    """Heights of a column's values, 0 to 1, and the labels beside them: numbers by their logarithm
    where they are positive, words in their order."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        x = np.asarray(values, np.float64)
        x = np.log(x) if (x > 0).all() else x
        places = (x - x.min()) / (float(np.ptp(x)) or 1.0)
        known = {round(float(p), 6): v for p, v in zip(places, values, strict=True)}
        labels = list(known.items())
        return places, labels if len(labels) <= 9 else [min(labels), max(labels)]
    words = list(dict.fromkeys(map(str, values)))
    spread = {word: i / max(len(words) - 1, 1) for i, word in enumerate(words)}
    return np.array([spread[str(v)] for v in values]), [(h, w) for w, h in spread.items()]


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _reach(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.25, max(values) * 1.25


def _plain(axes: Axes, *, x: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_xlabel(x, labelpad=3)


def _logs(axes: Axes, *, x: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 2.5, 3, 4, 5, 7), numticks=8))
    # Numbers of FLOPs have no names that all know: 1e11, not 100B.
    wide = axes.get_xlim()[1] > 1e9
    for axis, form in (
        (axes.xaxis, "{:.0e}".format if wide else tick),
        (axes.yaxis, "{:.4g}".format),
    ):
        axis.set_major_formatter(
            FuncFormatter(lambda value, _, form=form: form(value).replace("e+", "e"))
        )
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x, labelpad=3)
