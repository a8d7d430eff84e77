"""Which experiment on which slice: the rows of docs/pods.md, and when a row is out of date."""

import dataclasses
import hashlib
import json
from typing import Any

from gesso.configs import registry
from gesso.planning.search import search
from gesso.planning.topology import topology
from gesso.pretrain.experiment import Experiment

# A run may take this long on what is recommended; else a larger slice is.
DAYS = 30
# Small slices first; the cheap chip first, the large one for what does not fit it.
LADDER = (
    *(f"v5e:{shape}" for shape in ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
    *(f"v5p:{shape}" for shape in ("4x4x4", "4x4x8", "4x8x8")),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """An experiment, as changed by `overrides`, on slices of a topology."""

    experiment: str
    topology: str
    slices: int = 1
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        many = f"{self.slices}x" if self.slices > 1 else ""
        return f"{self.experiment}/{many}{self.topology}"


_WHOLE = ("v5e:16x16", "v4:4x8x8", "v5p:4x8x8", "v6e:16x16")
_SMALL = {
    "gpt-j-6b": ("v5e:8x8", "v4:4x4x4", "v5p:4x4x4", "v6e:8x8"),
    "gpt-neox-20b": ("v5e:8x16", "v4:4x4x8", "v5p:4x4x4", "v6e:8x8"),
    "elmo-original": ("v5e:2x2", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"),
    "bert-large": ("v5e:4x4", "v4:2x2x4", "v5p:2x2x4", "v6e:4x4"),
}
# ELMo's published 384 rows do not divide over 256 chips.
_WIDE: dict[str, dict[str, Any]] = {"elmo-original": {"batch": 768}}
# 256 chips of each kind and two slices of the first, then what is enough of each, and two of it.
PODS = (
    *(
        Row(experiment=name, topology=kind, overrides=_WIDE.get(name, {}))
        for name in _SMALL
        for kind in _WHOLE
    ),
    *(Row(experiment=name, topology=kinds[0], slices=2) for name, kinds in _SMALL.items()),
    *(Row(experiment=name, topology=kind) for name, kinds in _SMALL.items() for kind in kinds),
    *(
        Row(experiment=name, topology=kind, slices=2)
        for name, kinds in _SMALL.items()
        for kind in kinds[1:]
    ),
)


def shipped() -> list[str]:
    """Every experiment that is there to be trained."""
    return [name for name in registry.names() if not name.startswith("debug-")]


def recommended() -> list[Row]:
    """For each experiment the smallest slice of the ladder on which it fits, by formulas, and ends
    within DAYS."""
    return [_smallest(name) for name in shipped()]


def settings_hash(e: Experiment) -> str:
    """A hash of what decides an experiment's plan: all of its model, objective, adapter and sizes
    that is not a default, so that a new setting changes no hash."""
    asked = {
        "model": e.model,
        "objective": e.objective,
        "adapter": e.adapter,
        "precision": e.precision,
        "rest": [e.batch, e.length, e.steps, e.optimizer.name, e.trainable, e.first_layer],
    }
    told = json.dumps({name: _said(value) for name, value in asked.items()}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _said(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_said(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _said(each) for name, each in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    said: dict[str, Any] = {"is": type(value).__name__}
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if own != default:
            said[field.name] = _said(own)
    return said


def _smallest(name: str) -> Row:
    e = registry.experiment(name)
    for shape in LADDER:
        ranked, _ = search(e, topology(shape))
        if ranked and ranked[0].seconds * e.steps < DAYS * 86400:
            return Row(experiment=name, topology=shape)
    return Row(experiment=name, topology=LADDER[-1])
