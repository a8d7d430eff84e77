"""benchmarks/results/stacks.json as the generated part of docs/stacks.md."""

from collections.abc import Mapping
from typing import Any

from benchmarks.page import table

Row = Mapping[str, Any]


def markdown(document: Mapping[str, Any]) -> str:
    """The table, and why cells have no figure; the published model's embeddings; what was run."""
    rows: Mapping[str, Row] = document["rows"]
    clients = list(next(iter(rows.values()))["clients"])
    notes: dict[str, int] = {}
    cells = [
        [name, *(_cell(row["clients"][client], notes) for client in clients)]
        for name, row in rows.items()
        if row["clients"]
    ]
    found = [figure for row in rows.values() for figure in row["clients"].values()]
    versions = dict.fromkeys(each["versions"] for each in found if each["versions"])
    dates = sorted({row["date"] for row in rows.values()})
    machines = "; ".join(dict.fromkeys(row["machine"] for row in rows.values()))
    minutes = sum(row["seconds"] for row in rows.values()) / 60
    blocks = [
        table(["", *clients], cells),
        "\n".join(f"{number}. {why}" for why, number in notes.items()),
        *(
            _embeddings(name, row["embeddings"])
            for name, row in rows.items()
            if "embeddings" in row
        ),
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} by `python -m"
        f" benchmarks.stacks` in {minutes:.0f} minutes ({machines}), with {'; '.join(versions)}.",
    ]
    return "\n\n".join(block for block in blocks if block)


def failed(row: Row) -> bool:
    """Whether something in the row is wrong, rather than refused or not run."""
    found = [*row["clients"].values(), row.get("embeddings", {"outcome": ""})]
    return any(each["outcome"] == "failed" for each in found)


def _cell(figure: Mapping[str, Any], notes: dict[str, int]) -> str:
    if figure["outcome"] == "measured":
        return "0" if figure["apart"] == 0 else f"{figure['apart']:.1e}"
    number = notes.setdefault(figure["why"], len(notes) + 1)
    shown = {"refused": "no", "failed": "**failed**", "not run": "\u2013"}[figure["outcome"]]
    return f"{shown} [{number}]"


def _embeddings(name: str, found: Mapping[str, Any]) -> str:
    if found["outcome"] != "measured":
        return f"{name}, embeddings: {found['outcome']}: {found['why']}"
    return (
        f"{name}: {found['sentences']} sentences of {found['shortest']} to {found['longest']}"
        f" tokens, embedded here after `gesso import` (mean of the features, then length 1) and by"
        f" its own runtime ({found['versions']}). No coordinate is more than {found['apart']:.1e}"
        f" apart; the lowest cosine is 1 - {1 - found['cosine']:.1e}."
    )
