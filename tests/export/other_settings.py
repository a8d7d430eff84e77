"""Every field of a config of ours set to other valid values, whatever fields there are."""

import dataclasses
import itertools
import types
import typing
from dataclasses import dataclass

from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig


@dataclass(frozen=True)
class Variation:
    """A config in which `field` has another value, and `names` are all fields that differ."""

    field: str
    names: tuple[str, ...]
    config: object

    def __str__(self):
        return ", ".join(f"{name}={getattr_path(self.config, name)!r}" for name in self.names)


def getattr_path(config, name):
    for each in name.split("."):
        config = getattr(config, each)
    return config


def variations(config):
    """Variations of each field, at least one where there is a valid one: alone if the config stays
    valid, else with another field that makes it so."""
    found = []
    for name, values in candidates(config).items():
        found += _valid(config, name, values)
    for side in ("encoder", "decoder") if isinstance(config, EncoderDecoderConfig) else ():
        for each in variations(getattr(config, side)):
            names = tuple(f"{side}.{name}" for name in each.names)
            changed = dataclasses.replace(config, **{side: each.config})
            if not changed.problems():
                found.append(Variation(f"{side}.{each.field}", names, changed))
    return found


def candidates(config):
    """{field: other values}, by the fields' types."""
    hints = typing.get_type_hints(type(config))
    found = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        found[each.name] = [v for v in _others(hints[each.name], value) if v != value]
    return found


def _valid(config, name, values):
    alone = [dataclasses.replace(config, **{name: value}) for value in values]
    if found := [Variation(name, (name,), each) for each in alone if not each.problems()]:
        return found
    companions = [(n, v) for n, vs in candidates(config).items() if n != name for v in vs]
    for value, (other, its) in itertools.product(values, companions):
        changed = dataclasses.replace(config, **{name: value, other: its})
        if not changed.problems():
            return [Variation(name, (name, other), changed)]
    return []


def _others(hint, value):
    kind = typing.get_origin(hint)
    if kind is typing.Literal:
        return list(typing.get_args(hint))
    if kind is tuple:
        return _tuples(typing.get_args(hint)[0], value)
    if kind in (typing.Union, types.UnionType):
        return [v for each in typing.get_args(hint) for v in _others(each, value)]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        # What is inside is changed field by field; here another family.
        others = (BERTConfig(outputs=()), BERTConfig(), GPTConfig())
        return [each for each in others if isinstance(each, hint)]
    if hint is bool:
        return [not value]
    if hint is int:
        return [value + 1, 2 * value, 2, 1]
    if hint is float:
        return [2 * value + 0.125, 0.5 * value, 0.25]
    assert hint is str, f"no other values are known of a field of type {hint}"
    return [f"{value}x"]


def _tuples(hint, value):
    if typing.get_origin(hint) is typing.Literal:
        kinds = typing.get_args(hint)
        return [x for n in range(len(kinds) + 1) for x in itertools.combinations(kinds, min(n, 2))]
    return [value[:-1], value * 2, value[::-1]]
