"""Which example each draw of an instruction mixture is: rates by hand, an order without state.

Draw j names a task (exact counts per block, as data/order/mixture.py has them), an example of the
task (each once per epoch) and a rendering of it (another one every epoch).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gesso.data.config import ExamplesConfig, MixtureConfig
from gesso.data.order.counter_hash import below, draw
from gesso.data.order.mixture import Mixture, MixtureError
from gesso.data.order.permutation import make_key
from gesso.settings.nearest import did_you_mean

_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The tasks of a store, one entry each, in the store's order.

    names; components: the cluster of each. train, holdout: i64, examples. first: i64, the first
    piece (a task's training examples come first, the renderings of one example side by side).
    """

    names: tuple[str, ...]
    components: tuple[str, ...]
    train: np.ndarray
    holdout: np.ndarray
    first: np.ndarray


class ExampleSource(Protocol):
    """What examples are drawn from. renderings: the pieces of each example, side by side."""

    @property
    def folder(self) -> Path: ...

    @property
    def tasks(self) -> Tasks: ...

    @property
    def renderings(self) -> int: ...


class Draws:
    """The draws of a store of instruction examples, numbered from 0 without end.

    tasks: indices of the store's tasks that are drawn, i64[t]; rates: their shares, f64[t].
    Raises MixtureError for settings that cannot be, names that are unknown, and nothing to draw.
    """

    def __init__(
        self, store: ExampleSource, mixture: MixtureConfig, *, examples: ExamplesConfig, seed: int
    ) -> None:
        by_name = tasks_to_draw(store, without=examples.without)
        wanted = rates(
            {name: int(store.tasks.train[task]) for name, task in by_name.items()},
            clusters={name: store.tasks.components[task] for name, task in by_name.items()},
            mixture=mixture,
            cap=examples.cap,
        )
        self.mixture = Mixture(((0, wanted),), seed=seed)
        self.tasks = np.array([by_name[name] for name in self.mixture.components], np.int64)
        total = sum(wanted.values())
        self.rates = np.array([wanted[name] / total for name in self.mixture.components])
        self._store = store
        self._seed = make_key("instructions", seed)[0]

    def locate(self, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws (i64[n]) -> (the store's task, the piece), both i64[n]."""
        tasks, renderings = self._store.tasks, self._store.renderings
        component, index = self.mixture.locate(j)
        task = self.tasks[component]
        count = tasks.train[task]
        epoch, within = np.divmod(index, count)
        of_task = draw(self._seed, task)
        example = permute_each(within, count, keys=draw(of_task, epoch))
        # Epochs go through the renderings in turn, every example from another one on.
        first = below(draw(of_task ^ np.uint64(1), example), renderings)
        rendering = (epoch + first) % renderings
        return task, tasks.first[task] + example * renderings + rendering

    def epochs(self, j: int) -> dict[str, float]:
        """{component: how often its examples have been drawn before draw j, on average}."""
        tasks, names = self._store.tasks, [self._store.tasks.components[t] for t in self.tasks]
        used = self.mixture.consumption(j)
        return {
            name: float(
                sum(used[k] for k, each in enumerate(names) if each == name)
                / sum(
                    tasks.train[t]
                    for t, each in zip(self.tasks, names, strict=True)
                    if each == name
                )
            )
            for name in sorted(set(names))
        }


def tasks_to_draw(store: ExampleSource, *, without: tuple[str, ...] = ()) -> dict[str, int]:
    """{task: its index in the store} of the tasks with training examples that are not left out.

    without: names of tasks or clusters. Raises MixtureError for an unknown one, with the nearest.
    """
    tasks = store.tasks
    _require_known(without, [*tasks.components, *tasks.names], where="examples.without")
    kept = {
        name: index
        for index, (name, cluster) in enumerate(zip(tasks.names, tasks.components, strict=True))
        if tasks.train[index] and not {name, cluster} & set(without)
    }
    if not kept:
        raise MixtureError(f"the store {store.folder} has no examples to train on, or none is left")
    return kept


def rates(
    counts: Mapping[str, int],
    *,
    clusters: Mapping[str, str],
    mixture: MixtureConfig,
    cap: int = 0,
) -> dict[str, float]:
    """{task: rate}, not normalised, of tasks with so many examples.

    "natural": min(n, cap), examples-proportional mixing (FLAN, arXiv 2109.01652, caps at 3,000).
    "temperature": that ** (1 / T) (T5, arXiv 1910.10683; the cap comes before the root, as in
    seqio). "weights": values share rows among the clusters (or tasks) named; inside a cluster
    min(n, cap) does; what is not named is not drawn. "epochs": n * the value of task or cluster.
    """
    kind, values = mixture.kind, dict(mixture.values)
    _check(mixture, cap=cap)
    capped = {name: float(min(n, cap) if cap else n) for name, n in counts.items()}
    if kind == "natural":
        return capped
    if kind == "temperature":
        return {name: n ** (1.0 / mixture.temperature) for name, n in capped.items()}
    _require_known(values, [*clusters.values(), *counts], where="mixture.values")
    made: dict[str, float] = {}
    for asked, value in values.items():
        members = [name for name in counts if asked in (name, clusters[name])]
        if twice := made.keys() & set(members):
            raise MixtureError(
                f"mixture.values names {sorted(twice)[0]!r} twice, once as {asked!r}"
            )
        whole = sum(capped[name] for name in members)
        made |= {
            name: value * (capped[name] / whole if kind == "weights" else counts[name])
            for name in members
        }
    return made


def permute_each(index: np.ndarray, n: np.ndarray, *, keys: np.ndarray) -> np.ndarray:
    """Where a keyed bijection of [0, n) sends each index; every element has its own n and key.

    index, n: i64[m], n at most 2**31; keys: u64[m]. A balanced Feistel network, cycle walking, as
    data/order/permutation.py; there one n and key serve all.
    """
    bits = np.frexp((n - 1).astype(np.float64))[1]  # exact: n - 1 is below 2**53
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    low = (np.uint64(1) << half) - np.uint64(1)
    out = index.astype(np.uint64)
    walking = np.arange(out.size)
    while walking.size:
        key, shift, mask = keys[walking], half[walking], low[walking]
        left, right = out[walking] >> shift, out[walking] & mask
        for r in range(_ROUNDS):
            mixed = draw(key, right * np.uint64(_ROUNDS) + np.uint64(r)) >> np.uint64(32)
            left, right = right, left ^ (mixed & mask)
        out[walking] = (left << shift) | right
        walking = walking[out[walking] >= n[walking].astype(np.uint64)]
    return out.astype(np.int64)


def _check(mixture: MixtureConfig, *, cap: int) -> None:
    kind = mixture.kind
    if mixture.preset or mixture.changes:
        raise MixtureError("a mixture of instruction examples takes no preset and no changes")
    if cap < 0:
        raise MixtureError(f"examples.cap must not be negative: {cap}")
    if cap and kind == "epochs":
        raise MixtureError('examples.cap has no effect on mixture kind "epochs"')
    if mixture.temperature != 1.0 and kind != "temperature":
        raise MixtureError(f'temperature {mixture.temperature} has no effect on kind "{kind}"')
    if not mixture.temperature > 0:
        raise MixtureError(f"temperature must be above 0, not {mixture.temperature}")
    if mixture.values and kind in ("natural", "temperature"):
        raise MixtureError(f'mixture kind "{kind}" counts examples itself and takes no values')
    if kind in ("weights", "epochs") and not mixture.values:
        raise MixtureError(f'mixture kind "{kind}" needs values: {{cluster or task: {kind}}}')


def _require_known(asked: Iterable[str], known: list[str], *, where: str) -> None:
    names = sorted(set(known))
    for name in asked:
        if name not in names:
            raise MixtureError(
                f"{where}: {name!r} is not a cluster or task of the store (it has"
                f" {', '.join(names[:40])}{', ...' if len(names) > 40 else ''})"
                f"{did_you_mean(name, names)}"
            )
