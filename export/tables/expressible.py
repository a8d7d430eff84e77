"""Deny by default: the settings of ours that a format expresses; every other has its default.

Every writer declares an `Expressible`, or an `EveryField` where it holds our own program or our own
config. `problems` is the one place that compares a config with a declaration, so that a new field
of a config is refused by every writer until its declaration says what becomes of it.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gesso.export.files.tensors import FolderError

# Why a config's value of one field has no place in a format, or "".
Rule = Callable[[Any], str]


@dataclass(frozen=True)
class Problem:
    """A setting that a format cannot express. field: its name ("decoder.activation" of a side)."""

    field: str
    value: Any
    told: str


@dataclass(frozen=True, kw_only=True)
class Expressible:
    """What one format expresses of one family's config.

    fields: have a place in the format, whatever their value. only: {field: the values that the
    format has}. rules: {field: a Rule}, where other settings matter. sides: {field that is a config
    itself: what is expressible of it}. neutral: the fields that change no output of a config (how
    it is computed, started or trained, and what comes into play with other settings only), which a
    format may carry or leave out. of: what the settings are of, before their names in a refusal.
    Every field in none of them must have its default.
    """

    format: str
    family: str
    fields: Collection[str]
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    sides: Mapping[str, "Callable[[Any], Expressible]"] = field(default_factory=dict)
    neutral: Callable[[Any], Collection[str]] = lambda config: ()
    of: str = "model"

    def problems(self, config: Any) -> list[Problem]:
        """Every setting of `config` that the format cannot express."""
        found: list[Problem] = []
        neutral = self.neutral(config)
        for each in dataclasses.fields(config):
            name, value = each.name, getattr(config, each.name)
            if name in self.rules:
                if why := self.rules[name](config):
                    found.append(Problem(name, value, self._message(name, value, f": {why}")))
            elif name in self.sides:
                for p in self.sides[name](value).problems(value):
                    told = p.told.replace("model.", f"model.{name}.", 1)
                    found.append(Problem(f"{name}.{p.field}", p.value, told))
            elif name in self.only or name not in self.fields and name not in neutral:
                allowed = self.only.get(name, [_default(each)])
                if value not in allowed:
                    values = " or ".join(repr(one) for one in allowed)
                    found.append(
                        Problem(name, value, self._message(name, value, f", only {values}"))
                    )
        return found

    def _message(self, name: str, value: Any, why: str) -> str:
        return f"{self.format} has no {self.of}.{name} {value!r}{why}"


@dataclass(frozen=True, kw_only=True)
class EveryField:
    """A format in which no setting can be lost. why: what makes it so. rules: as of Expressible, of
    whole families."""

    format: str
    why: str
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def problems(self, config: Any) -> list[Problem]:
        """Every setting of `config` that the format cannot express."""
        return [
            Problem(name, getattr(config, name), why)
            for name, rule in self.rules.items()
            if (why := rule(config))
        ]


Declared = Expressible | EveryField


class Inexpressible(FolderError):
    """A config has settings that a format cannot express. instead: {field: the formats that can}"""

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        before: str = "",
        instead: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.problems, self.before = tuple(problems), before
        text = before + "; ".join(each.told for each in problems)
        for name, formats in (instead or {}).items():
            has = ", ".join(formats) or "no format"
            text += f"\n  model.{name} can be expressed by: {has}"
        super().__init__(text)


def refuse(declared: Declared, config: Any) -> None:
    """Raise Inexpressible for the settings of `config` that a format cannot express."""
    if problems := declared.problems(config):
        raise Inexpressible(problems)


def _default(each: "dataclasses.Field[Any]") -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return each.default
