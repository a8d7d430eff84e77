"""The coordinate check as part of a page, and as a page of its own."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gesso.records.quantities import tick
from gesso.reports.page import Page, Row, Section, Table
from gesso.reports.plots import COLORS, Figure, color, sketch
from gesso.reports.report import gesso_version, render
from gesso.storage.files import write_durably

_FILE = "coordinates.json"
FLAT = 0.25  # of the power of the width; the standard parametrisation's logits grow by 0.5 to 1
Parametrisation = Literal["standard", "muP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinates:
    """One model's activations: root mean squares over a batch that is not trained on, averaged over
    seeds. start: at initialisation. change: of their difference to it after the last update. Both
    by name: "embedding", "block 1", ..., "features" (what the head reads), "logits"."""

    parametrisation: Parametrisation
    width: int
    start: dict[str, float]
    change: dict[str, float]


def write_coordinates(
    name: str, found: Sequence[Coordinates], folder: str | os.PathLike[str]
) -> Path:
    """Write coordinates.json, which a sweep's page shows too, and coordinates.html; its path."""
    folder = Path(folder)
    text = json.dumps([dataclasses.asdict(each) for each in found], indent=1)
    write_durably(folder / _FILE, text + "\n")
    page = Page(
        title=f"{name}: coordinate check",
        lede="How far activations move in a few updates, by the width of the model.",
        when="",
        version=gesso_version(),
        comparison=True,
        sections=[coordinates_section(found)],
    )
    path = folder / "coordinates.html"
    write_durably(path, render(page))
    return path


def read_coordinates(folder: Path) -> list[Coordinates]:
    """What `write_coordinates` wrote to a folder; empty where there is nothing."""
    path = folder / _FILE
    if not path.is_file():
        return []
    return [Coordinates(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


def slopes(found: Sequence[Coordinates]) -> dict[Parametrisation, dict[str, float]]:
    """By parametrisation and activation: the power of the width that the change grows with, 0 where
    it is flat."""
    made: dict[Parametrisation, dict[str, float]] = {}
    kinds: tuple[Parametrisation, ...] = ("standard", "muP")
    for kind in kinds:
        rows = [each for each in found if each.parametrisation == kind]
        widths = np.log([each.width for each in rows])
        made[kind] = {
            name: float(np.polyfit(widths, np.log([each.change[name] for each in rows]), 1)[0])
            if len(rows) > 1
            else math.nan
            for name in rows[0].change
        }
    return made


def is_flat(found: Sequence[Coordinates]) -> bool:
    """Whether no activation under muP grows with the width, within what a few seeds can tell."""
    return max(abs(power) for power in slopes(found)["muP"].values()) < FLAT


def coordinates_section(found: Sequence[Coordinates]) -> Section:
    """Empty for no check."""
    if not found:
        return Section(key="coordinates", title="Coordinate check")
    powers = slopes(found)
    widths = sorted({each.width for each in found})
    verdict = (
        "Under muP none grows with the width: what is best for the narrowest model is a good choice"
        " for the widest."
        if is_flat(found)
        else "Under muP some activations still grow with the width: rates will not transfer."
    )
    rows = [
        Row(cells=[name, *(f"{powers[kind][name]:+.2f}" for kind in ("standard", "muP"))])
        for name in found[0].change
    ]
    low, high = _range(found)
    return Section(
        key="coordinates",
        title="Coordinate check",
        text=f"How far activations have moved after a few updates, at widths {widths[0]} to"
        f" {widths[-1]}, from the same rate. {verdict}",
        figures=[_figure(found, kind, low, high) for kind in ("standard", "muP")],
        legend=[(name, i + 1 if i < COLORS else 0) for i, name in enumerate(found[0].change)],
        table=Table(
            heads=("Grows with this power of the width", "Standard", "muP"), rows=rows, text=(0,)
        ),
    )


def _range(found: Sequence[Coordinates]) -> tuple[float, float]:
    values = [value for each in found for value in each.change.values() if value > 0]
    return min(values) / 1.5, max(values) * 1.5


def _figure(found: Sequence[Coordinates], kind: Parametrisation, low: float, high: float) -> Figure:
    rows = [each for each in found if each.parametrisation == kind]
    widths = [each.width for each in rows]

    def draw(axes: Axes) -> None:
        for i, name in enumerate(rows[0].change):
            axes.plot(
                widths,
                [each.change[name] for each in rows],
                color=color(i + 1),
                linewidth=1.5,
                marker="o",
                markersize=3.6,
                markeredgewidth=0,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_xticks(widths, [str(each) for each in widths])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 3), numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("width", labelpad=3)

    told = ", ".join(f"{name} {tick(value)}" for name, value in rows[-1].change.items())
    title = "Standard parametrisation" if kind == "standard" else "muP"
    return sketch(
        f"coordinates-{kind}", title, "root mean square of the change, log scales", draw=draw,
        label=f"{title}, at the largest width: {told}",
    )  # fmt: skip
