"""benchmarks/results/downstream.json as the generated part of docs/downstream_table.md."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.page import table

Row = Mapping[str, Any]


def markdown(document: Mapping[str, Any]) -> str:
    """The pretraining in a line, the table of datasets, adaptation, what was run."""
    rows: Mapping[str, Row] = document["rows"]
    scored = {name: row for name, row in rows.items() if "tfidf" in row}
    blocks = [_pretraining(rows["pretraining"])] if "pretraining" in rows else []
    if scored:
        blocks.append(_scores(scored))
    if "adaptation" in rows:
        blocks.append(_adaptation(rows["adaptation"]))
    blocks.append(_ran(document["command"], rows))
    return "\n\n".join(blocks)


def verdict(row: Row) -> str:
    """What the better start's mean score is beside TF-IDF's, and whether so many held-out examples
    can tell: 1.96 standard errors of a difference of two shares of them, as if independent."""
    best = max(statistics.mean(each) for each in row["scores"].values())
    apart = best - row["tfidf"]
    error = noise(row)
    if abs(apart) <= error:
        return f"even with TF-IDF ({apart:+.3f}, noise {error:.3f})"
    return f"{'beats' if apart > 0 else 'LOSES to'} TF-IDF ({apart:+.3f}, noise {error:.3f})"


def noise(row: Row) -> float:
    """1.96 standard errors of the difference of both shares of the held-out examples."""
    best = max(statistics.mean(each) for each in row["scores"].values())
    spread = sum(share * (1 - share) for share in (row["tfidf"], best))
    return 1.96 * math.sqrt(spread / row["examples"]["heldout"])


def seeds(values: Sequence[float]) -> str:
    """Their mean and, of several, the lowest and highest."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def _scores(rows: Mapping[str, Row]) -> str:
    head = (
        "dataset", "train / held out", "majority", "TF-IDF", "from scratch",
        "pretrained, then tuned", "pretrained, not tuned", "",
    )  # fmt: skip
    lines = [
        [
            f"{name}: {row['about']}",
            f"{row['examples']['train']:,} / {row['examples']['heldout']:,}",
            f"{row['majority']:.3f}",
            f"{row['tfidf']:.3f}",
            seeds(row["scores"]["scratch"]),
            seeds(row["scores"]["pretrained"]),
            f"{row['before']:.3f}" if "before" in row else "",
            verdict(row),
        ]
        for name, row in rows.items()
    ]
    count = {len(each) for row in rows.values() for each in row["scores"].values()}
    return (
        f"{table(head, lines)}\n\nAccuracy on what was held out; seeds of a start:"
        f" {' or '.join(map(str, sorted(count)))} (the mean, the lowest and highest of several)."
    )


def _pretraining(row: Row) -> str:
    model = row["model"]
    return (
        f"Model: {model['layers']} layers of {model['embed']}, {model['vocab']:,} ids, rows of"
        f" {model['length']}; pretrained on {row['tokens'] / 1e6:.1f} million tokens of the"
        f" training splits' text, to {row['bits_per_byte']:.2f} held-out bits per byte"
        f" ({', '.join(f'{name} {bits:.2f}' for name, bits in row['components'].items())})."
    )


def _adaptation(row: Row) -> str:
    lines = [
        [
            {"scratch": "from scratch", "adapted": "begun with reviews"}[start],
            *(seeds(row["all"][start][rate]) for rate in row["all"][start]),
            f"{row['rates'][start]:g}",
        ]
        for start in row["all"]
    ]
    rates = [f"rate {float(rate):g}" for rate in row["all"]["scratch"]]
    base = row["baselines"]
    said = ", ".join(f"{name.replace('_', ' ')} {bits:.3f}" for name, bits in base.items())
    return (
        f"### Reviews to speeches\n\nHeld-out bits per byte of the speeches after {row['steps']}"
        f" updates of {row['tokens_per_step']:,} tokens on them:\n\n"
        f"{table(('', *rates, 'the better rate'), lines)}\n\nBefore any of them the model of"
        f" reviews ({row['steps_before']} updates) has {row['before']:.3f}. Fitted to the same"
        f" speeches: {said}. Of held-out"
        f" reviews it had {row['source']['before']:.3f}, and {row['source']['after']:.3f} after"
        " the speeches. Bits per byte of"
        f" {row['bytes']:,} bytes.\n\n![held-out bits per byte on the way](adaptation.png)"
    )


def _ran(command: str, rows: Mapping[str, Row]) -> str:
    machines = dict.fromkeys(row["machine"].partition(", load")[0] for row in rows.values())
    loads = [float(row["machine"].rpartition("load ")[2].split()[0]) for row in rows.values()]
    dates = sorted({row["date"] for row in rows.values()})
    used = next(iter(rows.values()))["versions"]
    return (
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} by `{command}`;"
        f" {'; '.join(machines)}, which"
        f" other work shared (load {min(loads):.0f} to {max(loads):.0f}); "
        f"{', '.join(f'{name} {version}' for name, version in used.items())}. Every command is in"
        " benchmarks/results/downstream.json."
    )
