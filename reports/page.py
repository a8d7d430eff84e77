"""The parts of a report's page, as the template reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gesso.reports.plots import Figure


@dataclass(frozen=True, kw_only=True)
class Row:
    """cells: text, already formatted. color: of a swatch before the first cell. best: columns whose
    value is the best of the table."""

    cells: Sequence[str]
    color: int | None = None
    total: bool = False
    best: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """text: columns that hold words and are set flush left."""

    heads: Sequence[str]
    rows: Sequence[Row]
    text: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    label: str
    value: str
    percent: float
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Hero:
    """The one number a run is judged by, and what to compare it with."""

    value: str
    unit: str
    text: str
    bars: Sequence[Bar] = ()


@dataclass(frozen=True, kw_only=True)
class Stat:
    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Status:
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Share:
    label: str
    weight: float
    color: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The samples of one step."""

    title: str
    note: str
    samples: Sequence[Sample]
    last: bool = False


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """folded: the line that unfolds these moments; empty = they are always seen."""

    moments: Sequence[Moment]
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The settings of one part of an experiment, and a glimpse of them while folded."""

    name: str
    settings: Sequence[tuple[str, str]]
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Whatever is empty is left out. key: its anchor. size "small": three figures in a row.
    legend: (label, color) of the lines all its figures share."""

    key: str
    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    size: str = ""
    legend: Sequence[tuple[str, int]] = ()
    shares: Sequence[Share] = ()
    table: Table | None = None
    timeline: Sequence[Timeline] = ()
    columns: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    folded: Sequence[tuple[str, Table]] = ()
    trees: Sequence[tuple[str, Sequence[Group]]] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    title: str
    lede: str
    when: str
    version: str
    sections: Sequence[Section]
    status: Status = Status(kind="", text="")
    comparison: bool = False
    hero: Hero | None = None
    stats: Sequence[Stat] = ()
    verdicts: Table | None = None
    warnings: Sequence[str] = ()


def groups(record: Mapping[str, Any]) -> list[Group]:
    """An experiment's record as foldable groups: its own settings first, then part by part."""
    own = {key: value for key, value in record.items() if not isinstance(value, Mapping)}
    parts = [("run", own)] + [(k, v) for k, v in record.items() if isinstance(v, Mapping)]
    made = []
    for name, part in parts:
        settings = [(key, setting_text(value)) for key, value in flat(part).items()]
        glimpse = ", ".join(f"{key} {value}" for key, value in settings[:5])
        made.append(Group(name=str(name), settings=settings, summary=glimpse))
    return [group for group in made if group.settings]


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"schedule": {"kind": 1}} -> {"schedule.kind": 1}."""
    pairs: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs


def setting_text(value: Any) -> str:
    """A setting as text: lists by commas, nothing as a dash."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(each) for each in value) or "–"
    if value is None or value == "" or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"  # 0.3, not 0.30000000000000004
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
