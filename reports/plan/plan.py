"""The page of a plan: bytes per device against its memory, the step's time by bound, what is sent.

The parts that a compiler did not say are marked as estimates, as `gesso plan` prints them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gesso.records.quantities import short
from gesso.reports.page import Page, Row, Section, Stat, Table, groups
from gesso.reports.plan.plots import Part, collectives, ranking, stack, times
from gesso.reports.report import gesso_version, render
from gesso.storage.files import write_durably

_GIB = 2.0**30
_ESTIMATED = ("gradients", "activations", "attention_weights", "logits", "gathered_parameters")
_BOUNDS = {
    "matrix": "matrix products at 80% of peak",
    "compiler": "the compiler's own cycles",
    "memory": "reads and writes of memory",
    "links": "links inside a slice",
    "network": "network between slices",
}


def write_plan(plan: Mapping[str, Any], output: str | os.PathLike[str]) -> Path:
    """Write the page of a plan (planning.plan.plan or estimate, with "budget" and "search" where
    there are any) to `output`, and return its path."""
    path = Path(output)
    write_durably(path, render(plan_page(plan)))
    return path


def plan_page(plan: Mapping[str, Any]) -> Page:
    """The page; sections without facts are left out."""
    where, e = plan["topology"], plan["experiment"]
    many = f"{where['slices']} × " if where["slices"] > 1 else ""
    axes = " × ".join(f"{axis} {n}" for axis, n in plan["mesh"].items()) or "one device"
    how = "compiled for it" if plan["memory"].get("exact") else "estimated by formulas"
    sections = [_size_and_time(plan), _collectives(plan), _search(plan.get("search") or [])]
    settings = Section(key="settings", title="Settings", trees=[("", groups(e))])
    return Page(
        title=f"{e['name']} on {many}{where['name']}",
        lede=f"{_count(where['chips'], 'chip')}: {axes}, layout {e['layout']},"
        f" {_count(e['microbatches'], 'microbatch')} of {e['batch'] // e['microbatches']} rows"
        f" of {e['length']}; {how}. Nothing ran on it: times are a model.",
        when="",
        version=gesso_version(),
        comparison=True,
        stats=_stats(plan),
        warnings=[f"It does not fit: {plan['refused']}"] if plan.get("refused") else [],
        sections=[s for s in (*sections, settings) if s.figures or s.table or s.trees],
    )


def parts_of(memory: Mapping[str, Any]) -> list[Part]:
    """What fills a device, state first; together its total. Of temporaries whose size the compiler
    setting_text, the estimates of what they hold are made smaller until they fit in."""
    exact = bool(memory.get("exact"))
    parts = [
        Part(label="parameters", size=memory["parameters"], color=1, exact=exact),
        Part(label="optimizer", size=memory["optimizer"], color=2, exact=exact),
        Part(
            label="batch and the rest",
            size=memory["batch"] + memory["other_state"],
            color=0,
            exact=exact,
        ),
    ]
    guessed = {name: memory["estimates"][name] for name in _ESTIMATED}
    whole = memory["total"] - sum(part.size for part in parts)
    share = min(1.0, whole / (sum(guessed.values()) or 1.0))
    for i, (name, size) in enumerate(guessed.items()):
        label = name.replace("_", " ")
        parts.append(Part(label=label, size=size * share, color=3 + i, exact=False))
    rest = whole - share * sum(guessed.values())
    return [*parts, Part(label="other temporaries", size=max(0.0, rest), color=8, exact=False)]


def _size_and_time(plan: Mapping[str, Any]) -> Section:
    memory, time = plan["memory"], None if plan.get("refused") else plan["time"]
    parts, limit = parts_of(memory), memory.get("limit")
    figures = [stack(parts, limit=limit)]
    if time:
        alone = {_BOUNDS[name]: time[name] for name in _BOUNDS if time.get(name)}
        ends = time["fastest"], time["slowest"]
        figures.append(times(alone, bound=_BOUNDS[time["bound"]], ends=ends))
    rows = [
        Row(cells=[p.label, _gib(p.size), "exact" if p.exact else "estimate"], color=p.color)
        for p in parts
    ]
    total = "exact" if memory.get("exact") else "estimate"
    rows.append(Row(cells=["total", _gib(memory["total"]), total], total=True))
    if limit:
        rows.append(Row(cells=["what a program may use of a device", _gib(limit), "published"]))
    return Section(
        key="memory",
        title="Memory and time" if time else "Memory",
        text="The compiler says no more than that it finds no room: these are estimates."
        if plan.get("refused")
        else "",
        figures=figures,
        table=Table(heads=("Bytes per device", "GiB", ""), rows=rows, text=(0, 2)),
    )


def _collectives(plan: Mapping[str, Any]) -> Section:
    found = plan.get("collectives", [])
    title = "What devices send"
    if not found:
        return Section(key="sent", title=title)
    rows = [
        Row(
            cells=[
                each["kind"],
                each["axes"] or "–",
                str(each["group"]),
                f"{each['count']:,.0f}",
                f"{each['wire_bytes'] / 1e9:,.3f}",
                "between slices" if each["network"] else "inside a slice",
                "asynchronous" if each["asynchronous"] else "synchronous",
            ]
        )
        for each in found
    ]
    heads = ("Collective", "Axes", "Devices", "Count", "GB per device", "Where", "Schedule")
    wired = sum(each["wire_bytes"] for each in found)
    hidden = sum(each["wire_bytes"] for each in found if each["asynchronous"])
    return Section(
        key="sent",
        title=title,
        text=f"Read out of the compiled program: {wired / 1e9:.3g} GB per device and step,"
        f" {hidden / max(wired, 1):.0%} of it while something else is computed.",
        figures=[collectives(found)],
        table=Table(heads=heads, rows=rows[:12], text=(0, 1, 5, 6)),
        folded=[("The small ones", Table(heads=heads, rows=rows[12:], text=(0, 1, 5, 6)))]
        if rows[12:]
        else (),
    )


def _search(ranked: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        Row(
            cells=[
                each["options"],
                f"{each['seconds']:.3g}",
                f"{sum(each['mfu']) / 2:.0%}",
                _gib(each["bytes"]),
                each["bound"],
            ],
            best=(1,) if each is ranked[0] else (),
        )
        for each in ranked
    ]
    return Section(
        key="search",
        title="Search",
        text="The fastest that fit, by formulas.",
        figures=[ranking(ranked)] if len(ranked) > 1 else [],
        table=Table(
            heads=("Options", "Seconds per step", "MFU", "GiB per device", "Bound by"),
            rows=rows,
            text=(0, 4),
        )
        if rows
        else None,
    )


def _stats(plan: Mapping[str, Any]) -> list[Stat]:
    memory, time, program = plan["memory"], plan["time"], plan["program"]
    stats = []
    if "limit" in memory:
        share = memory["total"] / memory["limit"]
        word = "yes" if plan["fits"] else "no"
        of = f"{_gib(memory['total'])} of {_gib(memory['limit'])} GiB per device, {share:.0%}"
        note = "the compiler refuses it" if plan.get("refused") else of
        stats.append(Stat(label="Fits", value=word, note=note))
    else:
        stats.append(Stat(label="Memory", value=_gib(memory["total"]), unit="GiB per device"))
    stats.append(
        Stat(
            label="Parameters",
            value=short(program["parameters"]["total"]),
            note=f"{short(program['tokens_per_step'])} tokens per step",
        )
    )
    if time and not plan.get("refused"):
        stats += [
            Stat(
                label="Seconds per step",
                value=_range([time["fastest"], time["slowest"]], "{:.3g}"),
                note=f"bound by {_BOUNDS[time['bound']]}",
            ),
            Stat(
                label="Tokens per second",
                value=_range(time["tokens_per_second"], short),
                note=f"MFU {_range(time['mfu'], '{:.0%}')}",
            ),
        ]
        if budget := plan.get("budget"):
            cost = f", costing {_range(budget['cost'], '{:,.0f}')}" if budget["cost"] else ""
            note = f"for {short(budget['tokens'])} tokens{cost}"
            days = _range(budget["days"], "{:.3g}")
            stats.append(Stat(label="Days", value=days, note=note))
    return stats


def _gib(size: float) -> str:
    if 0 < size < 0.001 * _GIB:
        return "< 0.001"
    return f"{size / _GIB:.4g}" if size >= 10 * _GIB else f"{size / _GIB:.3g}"


def _range(values: Sequence[float], form: Any) -> str:
    write = form.format if isinstance(form, str) else form
    low, high = (write(each) for each in sorted(values))
    return low if low == high else f"{low} to {high}"


def _count(n: int, what: str) -> str:
    ending = "es" if what.endswith("ch") else "s"
    return f"{n:,} {what}" + (ending if n != 1 else "")
