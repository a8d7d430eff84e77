"""A sweep, said once: an experiment, the settings that vary, how they are chosen, what decides."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Range:
    """Any number from low to high; scale "log" for what is searched by factors."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"


# Values; a Range; or named bundles of settings that go together (a width with its heads).
Space = tuple[Any, ...] | Range | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many runs of one experiment.

    fixed: settings of every run. space: {setting: its values}; for named bundles the key is a name
    of your own. method: "grid" (every combination), "zip" (the first of all, the second of all,
    ...), "random", or "tpe" (optuna's tree-structured Parzen estimator, which learns from the runs
    before). trials: how many, for random and tpe. metric: of the last evaluation, the less the
    better. prune: stop runs that do worse than the "median" of the others at the same step, or by
    "hyperband"; "none" lets all end.
    """

    name: str
    experiment: str
    space: Mapping[str, Space]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    method: Literal["grid", "zip", "random", "tpe"] = "grid"
    trials: int = 0
    metric: str = "bits_per_byte"
    prune: Literal["none", "median", "hyperband"] = "none"
    seed: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        found = []
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if not self.space:
            found.append("a sweep needs at least one setting in `space`")
        if ranges and self.method in ("grid", "zip"):
            found.append(f"{', '.join(ranges)}: a Range cannot be listed; use random or tpe")
        if self.method in ("random", "tpe") and self.trials < 1:
            found.append(f"method {self.method} needs `trials`, at least 1")
        if self.method in ("grid", "zip") and self.trials:
            found.append(f"`trials` has no effect: {self.method} runs what `space` lists")
        lengths = {len(v) for v in self.space.values() if not isinstance(v, Range)}
        if self.method == "zip" and len(lengths) > 1:
            found.append(f"zip needs lists of one length, not {sorted(lengths)}")
        if 0 in lengths:
            found.append("a setting has no values")
        return found

    def choices(self) -> list[dict[str, Any]] | None:
        """The choices of every run, known before any has run: {setting or bundle: value or name}.
        None for "tpe", which decides as it goes."""
        if self.method == "tpe":
            return None
        names = list(self.space)
        lists = [list(v) for v in self.space.values() if not isinstance(v, Range)]
        if self.method == "zip":
            return [dict(zip(names, each, strict=True)) for each in zip(*lists, strict=True)]
        if self.method == "grid":
            return [dict(zip(names, each, strict=True)) for each in itertools.product(*lists)]
        draw = random.Random(self.seed)
        return [{name: _draw(self.space[name], draw) for name in names} for _ in range(self.trials)]

    def settings(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """A choice as the settings of a run: bundles opened, what is fixed put first."""
        made = dict(self.fixed)
        for name, value in choice.items():
            values = self.space[name]
            made |= values[value] if isinstance(values, Mapping) else {name: value}
        return made


def _draw(values: Space, draw: random.Random) -> Any:
    if not isinstance(values, Range):
        return draw.choice(list(values))
    if values.scale == "linear":
        return draw.uniform(values.low, values.high)
    return values.low * (values.high / values.low) ** draw.random()
