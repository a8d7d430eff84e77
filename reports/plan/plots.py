"""The figures of a plan's page: a device's memory filled, a step's time by bound, what is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gesso.reports.plots import Figure, color, sketch

_GIB = 2.0**30
_INK, _MUTED = "#b00001", "#b00002"  # what the page calls ink and muted (reports/plots.py)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A class of a device's bytes. exact: said by shardings or the compiler."""

    label: str
    size: float
    color: int
    exact: bool


def stack(parts: Sequence[Part], *, limit: float | None) -> Figure:
    """One bar of all that a device holds, against its memory (bytes)."""
    total = sum(part.size for part in parts)

    def draw(axes: Axes) -> None:
        left = 0.0
        for part in parts:
            axes.barh(0, part.size / _GIB, left=left / _GIB, color=color(part.color), height=0.5)
            left += part.size
        axes.annotate(
            f"{total / _GIB:.4g} GiB", (total / _GIB, 0.27), xytext=(0, 4),
            textcoords="offset points", ha="right" if total > 0.3 * (limit or 0) else "left",
            va="bottom", color=_INK, fontsize=11,
        ).set_gid("level-total")  # fmt: skip
        if limit:
            axes.axvline(limit / _GIB, color=_INK, linewidth=1.2, dashes=(3, 3))
            over = total > limit
            axes.annotate(
                f"{limit / _GIB:.4g} GiB to use", (limit / _GIB, -0.38), xytext=(-5, 0),
                textcoords="offset points", ha="right", va="top",
                color=_INK if over else _MUTED, fontsize=9.5,
            ).set_gid("level-limit")  # fmt: skip
        axes.set_xlim(0, 1.04 * max(total, limit or 0.0) / _GIB)
        axes.set_ylim(-0.75, 0.75)
        _bars(axes, "GiB per device")

    legend = [(p.label, p.color, _size(p.size)) for p in parts if p.size > 0.002 * total]
    told = ", ".join(f"{p.label} {_size(p.size)}" for p in parts)
    return sketch(
        "plan-memory", "Memory", "per device", draw=draw, label=told, legend=legend
    )  # fmt: skip


def times(seconds: Mapping[str, float], *, bound: str, ends: tuple[float, float]) -> Figure:
    """A bar for what a step spends on each, were it alone; the step is between `ends` (dashed)."""
    names = list(seconds)[::-1]
    unit, scale = _unit(max(*seconds.values(), ends[1]))

    def draw(axes: Axes) -> None:
        for at, name in enumerate(names):
            drawn = color(1) if name == bound else color(0)
            axes.barh(at, seconds[name] * scale, color=drawn, height=0.2)
            axes.annotate(
                f"{name}  {seconds[name] * scale:.3g} {unit}", (0, at + 0.1), xytext=(1, 4),
                textcoords="offset points", va="bottom", color=_INK, fontsize=9.5,
            )  # fmt: skip
        for end in ends:
            axes.axvline(end * scale, color=_MUTED, linewidth=1, dashes=(3, 3), zorder=0)
        axes.set_xlim(0, 1.05 * scale * max(*seconds.values(), ends[1]))
        axes.set_ylim(-0.5, max(len(names), 2) - 0.3)
        _bars(axes, unit)

    told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    note = (
        f"Each alone, in colour what binds. Dashed: a step, {ends[0]:.3g} s if all overlap and"
        f" {ends[1]:.3g} s if only what the compiler made asynchronous does."
    )
    return sketch("plan-time", "Time per step", "a model", draw=draw, label=told, note=note)


def collectives(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of bytes sent per device and step, by kind and mesh axes; the synchronous part in
    colour."""
    sums: dict[str, list[float]] = {}
    for each in found:
        name = f"{each['kind']} {each['axes'] or 'of ' + str(each['group'])}"
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[bool(each["asynchronous"])] += each["wire_bytes"] / 1e9
    largest = sorted(sums.items(), key=lambda item: sum(item[1]))[-6:]
    most = max(sum(parts) for _, parts in largest)

    def draw(axes: Axes) -> None:
        for at, (name, (waited, hidden)) in enumerate(largest):
            axes.barh(at, waited, color=color(1), height=0.2)
            axes.barh(at, hidden, left=waited, color=color(2), height=0.2)
            axes.annotate(
                f"{name}  {waited + hidden:.3g} GB", (0, at + 0.1), xytext=(1, 4),
                textcoords="offset points", va="bottom", color=_INK, fontsize=9.5,
            )  # fmt: skip
        axes.set_xlim(0, 1.05 * (most or 1.0))
        axes.set_ylim(-0.5, max(len(largest), 2) - 0.3)
        _bars(axes, "GB per device and step")

    legend = [("synchronous", 1, ""), ("asynchronous", 2, "")]
    told = ", ".join(f"{name} {sum(parts):.3g} GB" for name, parts in largest[::-1])
    return sketch("plan-sent", "Sent", "by kind and axes", draw=draw, label=told, legend=legend)


def ranking(ranked: Sequence[Mapping[str, Any]]) -> Figure:
    """Where the fastest candidates lie: memory over time."""

    def draw(axes: Axes) -> None:
        for each in reversed(ranked):
            best = each is ranked[0]
            axes.plot(
                [each["bytes"] / _GIB],
                [each["seconds"]],
                "o",
                color=color(1 if best else 0),
                markersize=7 if best else 5,
                markeredgewidth=0,
            )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("GiB per device", labelpad=3)

    return sketch(
        "plan-search", "Candidates", "seconds per step", draw=draw,
        label=f"{len(ranked)} candidates by memory and time", note="In colour the fastest.",
    )  # fmt: skip


def _bars(axes: Axes, unit: str) -> None:
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axes.set_xlabel(unit, labelpad=3)


def _size(size: float) -> str:
    for unit, scale in (("GiB", _GIB), ("MiB", 2.0**20)):
        if size >= 0.1 * scale or unit == "MiB":
            return f"{size / scale:.3g} {unit}"
    raise AssertionError


def _unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds >= 1 else ("ms", 1e3)
