"""docs/pods.md: the tables that `benchmarks.pods` writes, from what it found."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.page import table

GIB = 2.0**30
_HEAD = (
    "on",
    "mesh, remat, microbatches",
    "rows × length",
    "parameters",
    "optimizer",
    "activations, logits and the rest",
    "total, of the chip's",
    "a device sends per step, GB",
    "a step, s",
    "bound",
    "MFU",
    "compile, CPU s",
)


def markdown(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The section `name`, pods or recommended, of rows by name."""
    return pods(found) if name == "pods" else recommended(found)


def pods(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table per experiment: memory per chip by class, collectives, the step's time."""
    parts = [_source("python -m benchmarks.pods", found)]
    for experiment in dict.fromkeys(each["experiment"] for each in found.values()):
        own = [each for each in found.values() if each["experiment"] == experiment]
        own = sorted(own, key=lambda each: (each["slices"], each["topology"], each["chips"]))
        parts.append(f"### {experiment}\n\n" + table(_HEAD, [_row(each) for each in own]))
        refused = [
            f"- {_on(each)}: `{one['options']}`: {_why(one['why'])}"
            for each in own
            for one in each["refused"]
        ]
        if refused:
            parts.append("What the compiler refused before:\n\n" + "\n".join(refused))
    return "\n\n".join(parts)


def recommended(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per experiment, with the command."""
    rows = []
    for each in found.values():
        if not each["fits"]:
            rows.append([each["experiment"], _on(each), "no", "", "", "", ""])
            continue
        total, time = each["bytes"]["total"], each["time"]
        days = [end * each["steps"] / 86400 for end in (time["fastest"], time["slowest"])]
        rows.append(
            [
                each["experiment"],
                _on(each),
                "compiled" if each["compiled"] else "formulas",
                f"{total / GIB:.1f} ({total / each['bytes']['limit']:.0%})",
                _range([time["fastest"], time["slowest"]], "{:.3g}"),
                _duration(sum(days) / 2),
                f"`{each['options']}`",
            ]
        )
    head = ("experiment", "on", "fits, by", "GiB per chip", "a step, s", "in all", "options")
    return (
        _source("python -m benchmarks.pods --table recommended", found) + "\n\n" + table(head, rows)
    )


def _row(each: Mapping[str, Any]) -> Sequence[object]:
    if not each["fits"]:
        return [_on(each), "nothing that was tried fits", *[""] * (len(_HEAD) - 2)]
    size, time = each["bytes"], each["time"]
    axes = " × ".join(f"{axis} {n}" for axis, n in each["mesh"].items())
    layout = "; fsdp_optimizer" if each["layout"] == "fsdp_optimizer" else ""
    how = f"{axes}{layout}; {each['remat'] or 'no remat'}; {each['microbatches']}"
    return [
        _on(each) if each["compiled"] else f"{_on(each)} (formulas)",
        how,
        f"{each['batch']} × {each['length']}",
        f"{size['parameters'] / GIB:.2f}",
        f"{size['optimizer'] / GIB:.2f}",
        f"{size['temporary'] / GIB:.2f}",
        f"**{size['total'] / GIB:.2f}** GiB, {size['total'] / size['limit']:.0%}",
        sent(each["collectives"]) if each["compiled"] else "–",
        _range([time["fastest"], time["slowest"]], "{:.3g}"),
        time["bound"],
        _range(time["mfu"], "{:.0%}"),
        f"{each['seconds'].get('cpu', 0):.0f}" if each["compiled"] else "",
    ]


def sent(collectives: Sequence[Mapping[str, Any]] | None) -> str:
    """ "all-gather fsdp 12.1 (90% async), ...": by kind and axes, the largest first. None: they
    were counted by a reader that has been mended since."""
    if collectives is None:
        return "not counted"
    sums: dict[str, list[float]] = {}
    for each in collectives:
        axes = f" {each['axes']}" if each["axes"] else f" of {each['group']}"
        entry = sums.setdefault(each["kind"] + axes, [0.0, 0.0])
        entry[0] += each["wire_bytes"] / 1e9
        entry[1] += each["wire_bytes"] / 1e9 if each["asynchronous"] else 0.0
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    told = [
        f"{name} {all_:.{3 if all_ >= 100 else 2}g}"
        + (f" ({hidden / all_:.0%} async)" if hidden else "")
        for name, (all_, hidden) in ordered
        if all_ >= 0.005
    ]
    return ", ".join(told[:5]) or "nothing"


def _on(each: Mapping[str, Any]) -> str:
    many = f"{each['slices']} × " if each["slices"] > 1 else ""
    return f"{many}{each['topology']} ({each['chips']} chip{'s' * (each['chips'] > 1)})"


def _why(told: str) -> str:
    """Of XLA's message the figures."""
    at = told.find("Ran out of memory")
    return " ".join(told[max(at, 0) :].split())[:170]


def _source(command: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    compiled = [each for each in found.values() if each.get("versions")]
    dates = ", ".join(sorted({each["date"] for each in found.values() if "date" in each}))
    versions = "; ".join(
        sorted({f"jax {e['versions']['jax']}, libtpu {e['versions']['libtpu']}" for e in compiled})
    )
    done = f"{len(compiled)} of {len(found)} rows compiled"
    told = f"Command: `{command}`; {dates}; {versions or 'no compiler'}; {done}."
    ratios = [
        (e["estimated_bytes"] / e["bytes"]["total"], e["estimated_seconds"] / e["time"]["middle"])
        for e in compiled
    ]
    if ratios:
        memory, time = (_range(each, "{:.2f}") for each in zip(*ratios, strict=True))
        told += f" By the formulas these need {memory} times the memory and {time} times the time."
    return told


def _duration(days: float) -> str:
    for unit, size in (("days", 1.0), ("hours", 1 / 24)):
        if days >= size:
            return f"{days / size:.2g} {unit}"
    return f"{max(1.0, days * 1440):.0f} min"


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
