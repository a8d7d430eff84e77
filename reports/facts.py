"""What a run folder says about its run: read leniently, for an unfinished run is reported too."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gesso.records.evaluations import read_evaluations
from gesso.records.metrics import Record, read_metrics

BASELINES = {"unigram": "unigram over tokens", "byte_3gram": "3-gram over bytes"}


class NotARun(ValueError):
    """A folder that holds no run."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over the steps: x i64[n] ascending, y f64[n], NaN where it is not known."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run. Records are in step order, each step once; of one written twice, the later.

    kept: what `gesso evaluate` found (records/evaluations.py). missing: files that are not there
    or cannot be read. Their facts are empty.
    """

    name: str
    folder: Path
    experiment: dict[str, Any]
    environment: dict[str, Any]
    corpus: dict[str, Any]
    parameters: list[dict[str, Any]]
    train: list[Record]
    evaluations: list[Record]
    kept: list[Record]
    samples: list[Record]
    events: list[Record]
    missing: tuple[str, ...]

    @property
    def status(self) -> Literal["finished", "preempted", "unfinished"]:
        last = self.events[-1].get("event") if self.events else None
        if last == "done":
            return "finished"
        return "preempted" if last == "preempted" else "unfinished"

    @property
    def step(self) -> int:
        """Updates done, as far as the records go."""
        return max((int(r["step"]) for r in (*self.train, *self.evaluations)), default=0)

    @property
    def components(self) -> list[str]:
        """Every component on record, the one with the most training tokens first."""
        names = dict.fromkeys(_components(self.corpus))
        for record in (*self.evaluations, *self.train[-1:], *self.train[:1]):
            names |= dict.fromkeys(_components(record))
        return sorted(names, key=lambda name: -self.tokens_of(name))

    def tokens_of(self, component: str) -> float:
        """Training tokens of a component in the store; 0 where it is not known."""
        return number(_components(self.corpus), component, "train", "tokens", default=0.0)

    def train_curve(self, *path: str) -> Curve:
        """A quantity of the train records: train_curve("components", "Stdlib")."""
        return curve(self.train, *path)

    def heldout_curve(self, *path: str) -> Curve:
        return curve(self.evaluations, *path)


def read_run(folder: str | os.PathLike[str]) -> RunFacts:
    """The facts of a run folder. Raises NotARun when it has neither experiment nor metrics."""
    folder = Path(folder)
    files = {
        name: _load(folder / f"{name}.json", kind)
        for name, kind in (
            ("experiment", dict),
            ("environment", dict),
            ("corpus", dict),
            ("parameters", list),
        )
    }
    records = read_metrics(folder)
    if files["experiment"] is None and not records:
        raise NotARun(
            f"{folder} is not a run folder: it has no experiment.json and no metrics.jsonl"
        )
    experiment = files["experiment"] or {}
    return RunFacts(
        name=str(experiment.get("name") or folder.resolve().name),
        folder=folder,
        experiment=experiment,
        environment=files["environment"] or {},
        corpus=files["corpus"] or {},
        parameters=[row for row in files["parameters"] or [] if isinstance(row, dict)],
        train=_once(records, "train"),
        evaluations=_once(records, "evaluation"),
        kept=read_evaluations(folder),
        samples=_once(records, "sample"),
        events=[record for record in records if record["kind"] == "event"],
        missing=tuple(
            [f"{name}.json" for name, found in files.items() if found is None]
            + ([] if records else ["metrics.jsonl"])
        ),
    )


def curve(records: Sequence[Record], *path: str) -> Curve:
    """The number at `path` of every record that has one."""
    pairs = [
        (int(record["step"]), number(record, *path)) for record in records if _has(record, *path)
    ]
    return Curve(
        name=path[-1],
        x=np.array([x for x, _ in pairs], np.int64),
        y=np.array([y for _, y in pairs], np.float64),
    )


def number(record: Mapping[str, Any], *path: str, default: float = math.nan) -> float:
    """The number at a path of nested dicts; `default` where there is none."""
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and value is not None else default


def steps_between(records: Sequence[Record]) -> np.ndarray:
    """i64[n]: the updates each train record stands for, since the record before it."""
    steps = np.array([int(record["step"]) for record in records], np.int64)
    return np.diff(steps, prepend=0) if len(steps) else steps


def latest(records: Sequence[Record], *path: str, share: float = 0.05) -> float:
    """The mean over the last 5 % of the records (at least one), of those that have the number."""
    values = curve(records, *path).y
    tail = values[-max(1, round(len(values) * share)) :]
    return float(tail.mean()) if len(tail) else math.nan


def typical(records: Sequence[Record], *path: str) -> float:
    """The median, without the first record: it may hold the warm-up of the machine."""
    values = curve(records[1:] or records, *path).y
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def tokens_seen(run: RunFacts) -> float:
    """Tokens trained on, from the logged steps: each stands for those since the one before."""
    tokens = np.array([number(record, "tokens", default=0.0) for record in run.train])
    return float((tokens * steps_between(run.train)).sum())


def training_seconds(run: RunFacts) -> float:
    """Time spent in training steps; evaluation, checkpoints and standstill are not in it."""
    seconds = np.array([number(record, "seconds", default=0.0) for record in run.train])
    return float((seconds * steps_between(run.train)).sum())


def last_evaluation(run: RunFacts, *path: str) -> float:
    return number(run.evaluations[-1], *path) if run.evaluations else math.nan


def parameters(run: RunFacts) -> float:
    return sum(number(row, "count", default=0.0) for row in run.parameters)


def baselines(run: RunFacts) -> list[tuple[str, float]]:
    found = [(key, number(run.corpus, "baselines", key)) for key in BASELINES]
    return [(key, value) for key, value in found if math.isfinite(value) and value > 0]


def decimate(c: Curve, *, limit: int = 1000) -> Curve:
    """At most `limit` points, keeping the lowest and the highest of every stretch of steps.

    Ends stay. NaN and infinity stay where a whole stretch is so: a gap is seen.
    """
    if len(c.x) <= limit:
        return c
    edges = np.linspace(1, len(c.x) - 1, (limit - 2) // 2 + 1).astype(np.int64)
    kept = {0, len(c.x) - 1}
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        stretch = c.y[first:last]
        if not len(stretch):
            continue
        finite = np.flatnonzero(np.isfinite(stretch))
        if not len(finite):
            kept.add(int(first))
            continue
        kept.add(int(first + finite[stretch[finite].argmin()]))
        kept.add(int(first + finite[stretch[finite].argmax()]))
    index = np.array(sorted(kept))
    return Curve(name=c.name, x=c.x[index], y=c.y[index])


def smooth(c: Curve, *, window: int) -> Curve:
    """A centred moving mean over `window` points, fewer towards the ends, of finite values."""
    if window < 2 or len(c.y) < 2:
        return c
    finite = np.isfinite(c.y)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, c.y, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    at = np.arange(len(c.y))
    # As far to the left as to the right: a shorter side would bend the ends of a trend.
    reach = np.minimum(np.minimum(at, len(c.y) - 1 - at), window // 2)
    low, high = at - reach, at + reach + 1
    n = count[high] - count[low]
    mean = np.where(n > 0, (total[high] - total[low]) / np.maximum(n, 1), math.nan)
    return Curve(name=c.name, x=c.x, y=mean)


def _has(record: Any, *path: str) -> bool:
    return not path or (
        isinstance(record, Mapping) and path[0] in record and _has(record[path[0]], *path[1:])
    )


def _components(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record.get("components")
    return found if isinstance(found, dict) else {}


def _once(records: Iterable[Record], kind: str) -> list[Record]:
    """One record per step (and prompt), the one written last, in step order."""
    by_key = {(r["step"], r.get("prompt", "")): r for r in records if r["kind"] == kind}
    return [by_key[key] for key in sorted(by_key, key=lambda key: int(key[0]))]


def _load(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, kind) else None
