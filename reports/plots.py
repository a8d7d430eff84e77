"""The plots of a report: matplotlib's SVG, coloured by the page's CSS variables.

Text stays text, and colours are names (`var(--s1)`), so that one plot fits a light page, a dark
one and paper. Legends and titles are the page's: they cannot collide with a curve.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gesso.records.quantities import Unit, tick, value_text
from gesso.reports.facts import Curve, RunFacts, decimate, smooth

COLORS = 8  # --s1 to --s8; --s0 is for all others

# Matplotlib wants colours, the page wants names: these stand for them until the SVG is written.
_INK, _MUTED, _LINE = "#b00001", "#b00002", "#b00003"
_NAMES = {_INK: "ink", _MUTED: "muted", _LINE: "line"} | {
    f"#a0000{i}": f"s{i}" for i in range(COLORS + 1)
}
_WIDTH, _HEIGHT = 440, 236  # units of the viewBox; about a pixel each on a wide page
_MARGIN = {"left": 44, "right": 12, "top": 8, "bottom": 36}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gesso",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 1,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.size": 3,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a figure. color: 1 to 8, or 0 for the rest. dots: mark its points. label: "" is a
    line to compare with, in no legend. value: what the legend says beside it; "": its last value.
    """

    label: str
    curve: Curve
    color: int
    dots: bool = False
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value to compare with: a dashed line, written at its right end."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure to be drawn. key: unique on the page. unit: of y, in words. form: how y is written.
    axis: what x is, in words.

    smoothing "window" draws each curve faintly and its moving mean over it. scale "log" falls
    back to linear where nothing is positive. settle "tail" leaves the first few steps out of the
    y range, which a loss would otherwise fill; whatever comes later is inside. bottom: where y
    begins, at most; None: below the lowest point.
    """

    key: str
    title: str
    unit: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    form: Unit = "number"
    scale: Literal["linear", "log"] = "linear"
    smoothing: Literal["none", "window"] = "none"
    settle: Literal["whole", "tail"] = "whole"
    bottom: float | None = None
    note: str = ""
    axis: str = "step"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure. legend: (label, color, last value as text). data: JSON for hovering."""

    key: str
    title: str
    unit: str
    note: str
    svg: Markup
    data: Markup
    legend: list[tuple[str, int, str]]


def component_colors(run: RunFacts) -> dict[str, int]:
    """The colour of each component, the same in all figures and tables of a page."""
    return {name: i + 1 if i < COLORS else 0 for i, name in enumerate(run.components)}


def draw(plot: Plot) -> Figure | None:
    """Draw a figure; None when all its curves are NaN or infinite."""
    series = [s for s in plot.series if np.isfinite(s.curve.y).any()]
    if not series:
        return None
    lines = [(s, _smooth(s.curve, plot)) for s in series]
    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        canvas = _canvas()
        axes = canvas.add_subplot()
        # Few points lie on top of many, and the first curves on top of the others.
        for i in sorted(range(len(lines)), key=lambda i: (series[i].dots, -i)):
            _draw_series(axes, *lines[i])
        _limits(axes, plot, [line for _, line in lines], [s.curve for s in series])
        _ticks(axes, plot)
        for i, level in enumerate(plot.levels):
            _draw_level(axes, level, name=f"level-{i}")
        canvas.canvas.draw()
        data = _hover(axes, plot, lines)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True)
    last = {s.label: _last(line) for s, line in lines}
    summary = ", ".join(
        f"{label} {value_text(value, plot.form)}" for label, value in last.items() if label
    )
    return Figure(
        key=plot.key,
        title=plot.title,
        unit=plot.unit,
        note=plot.note,
        svg=_page_svg(buffer.getvalue(), plot.key, f"{plot.title}, {plot.unit}. Last: {summary}"),
        data=Markup(_script_json(data)),
        legend=[
            (s.label, s.color, s.value or value_text(last[s.label], plot.form))
            for s in series
            if s.label
        ],
    )


def draw_all(plots: Iterable[Plot]) -> list[Figure]:
    """The plots that have something to show, drawn."""
    return [figure for figure in map(draw, plots) if figure is not None]


def sketch(
    key: str,
    title: str,
    unit: str,
    *,
    draw: Callable[[Axes], None],
    label: str,
    legend: Sequence[tuple[str, int, str]] = (),
    note: str = "",
) -> Figure:
    """A figure of another kind than curves over steps: `draw` fills axes in the page's style, with
    colours from `color`. label: what it shows, for who cannot see it. No values under the pointer.
    """
    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        canvas = _canvas()
        draw(canvas.add_subplot())
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True)
    nothing = {"x": [0, 1], "y": [0, 1], "log": False, "axis": "", "box": [0, 0, -100, 0]}
    return Figure(
        key=key,
        title=title,
        unit=unit,
        note=note,
        svg=_page_svg(buffer.getvalue(), key, label),
        data=Markup(_script_json(nothing | {"series": []})),
        legend=list(legend),
    )


def color(number: int) -> str:
    """What `sketch` draws with for the page's colour --s1 to --s8, or --s0 for all others."""
    return f"#a0000{number if number <= COLORS else 0}"


def _canvas() -> Canvas:
    canvas = Canvas(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
    FigureCanvasSVG(canvas)
    canvas.subplots_adjust(
        left=_MARGIN["left"] / _WIDTH,
        right=1 - _MARGIN["right"] / _WIDTH,
        top=1 - _MARGIN["top"] / _HEIGHT,
        bottom=_MARGIN["bottom"] / _HEIGHT,
    )
    return canvas


def _smooth(c: Curve, plot: Plot) -> Curve:
    window = len(c.x) // 40 if plot.smoothing == "window" else 0
    return smooth(c, window=window)


def _draw_series(axes: Axes, s: Series, line: Curve) -> None:
    color = f"#a0000{s.color}"
    if line is not s.curve:
        raw = decimate(s.curve)
        axes.plot(raw.x, _finite(raw.y), color=color, linewidth=0.7, alpha=0.32)
    drawn = decimate(line)
    axes.plot(
        drawn.x,
        _finite(drawn.y),
        color=color,
        linewidth=1.0 if s.color == 0 else 1.6,
        marker="o" if s.dots or len(drawn.x) == 1 else "",
        markersize=3.6,
        markeredgewidth=0,
    )


def _limits(axes: Axes, plot: Plot, lines: Sequence[Curve], raw: Sequence[Curve]) -> None:
    first = min(float(c.x.min()) for c in raw)
    last = max(float(c.x.max()) for c in raw)
    # From 0, so that all figures of a run line up; not where the records begin late.
    axes.set_xlim(
        0 if first <= last / 2 or first == last else first, last if last > first or last > 0 else 1
    )
    settled = first + (last - first) * (0.02 if plot.settle == "tail" else 0.0)
    values = np.concatenate([c.y[c.x >= settled] for c in (*lines, *raw)])
    if not np.isfinite(values).any():
        values = np.concatenate([c.y for c in raw])
    values = np.concatenate([values, [level.value for level in plot.levels]])
    values = _finite(values)[np.isfinite(values)]
    if plot.scale == "log" and (values > 0).any():
        values = values[values > 0]
        axes.set_yscale("log")
        # At least half a decade, so that noise does not look like a trend.
        middle = math.sqrt(float(values.min()) * float(values.max()))
        low = min(float(values.min()) / 1.15, middle / 1.8)
        axes.set_ylim(low, max(float(values.max()) * 1.15, middle * 1.8))
        return
    low, high = float(values.min()), float(values.max())
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    bottom = low - room if plot.bottom is None else min(plot.bottom, low)
    axes.set_ylim(bottom, high + room)


def _ticks(axes: Axes, plot: Plot) -> None:
    whole = all((each.curve.x == np.round(each.curve.x)).all() for each in plot.series)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: tick(x) if whole else _tick(x, "number"))
    )
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=7))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y, plot.form)))
    axes.set_xlabel(plot.axis, labelpad=3)


def _draw_level(axes: Axes, level: Level, *, name: str) -> None:
    axes.axhline(level.value, color=_MUTED, linewidth=1, dashes=(3, 3))
    text = axes.annotate(
        f"{level.label} {level.value:.3f}",
        (1, level.value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        color=_MUTED,
        fontsize=9,
    )
    text.set_gid(name)  # the page gives it a halo


def _tick(value: float, form: Unit) -> str:
    if form == "percent":
        return f"{value * 100:.4g}%"
    if form == "short":
        return tick(value)
    text = f"{value:.4g}"
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", text)


def _finite(y: np.ndarray) -> np.ndarray:
    # Matplotlib overflows on numbers near the end of float64; nobody reads them off a figure.
    return np.clip(np.where(np.isfinite(y), y, np.nan), -1e100, 1e100)


def _last(c: Curve) -> float:
    finite = c.y[np.isfinite(c.y)]
    return float(finite[-1]) if len(finite) else math.nan


def _hover(axes: Axes, plot: Plot, lines: Sequence[tuple[Series, Curve]]) -> dict[str, Any]:
    """What the page's script needs to find the value under the pointer."""
    box = axes.get_window_extent()
    points = [(s, decimate(line, limit=600)) for s, line in lines if s.label]
    return {
        "x": [*axes.get_xlim()],
        "y": [*axes.get_ylim()],
        "log": axes.get_yscale() == "log",
        "axis": plot.axis,
        "box": [box.x0, _HEIGHT - box.y1, box.x1, _HEIGHT - box.y0],
        "series": [
            {
                "label": s.label,
                "color": s.color,
                "x": c.x.tolist(),
                "y": [_round(y) for y in c.y],
                "text": [value_text(float(y), plot.form) for y in c.y],
            }
            for s, c in points
        ],
    }


def _round(y: float) -> float | None:
    return float(f"{y:.6g}") if math.isfinite(y) else None


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _page_svg(svg: str, key: str, label: str) -> Markup:
    """Matplotlib's file as an element of the page: no header, own ids, colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", svg)
    svg = re.sub(r' font-family: [^;"]*;', "", svg)
    for color, name in _NAMES.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    body = svg[svg.index(">") + 1 :]
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        _WIDTH, _HEIGHT, label
    )
    return head + Markup(re.sub(r"\n\s*", "\n", body))
