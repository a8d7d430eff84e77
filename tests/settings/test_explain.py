"""Every setting explains itself: a sentence under each field, found in every config there is."""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest

from gesso.data.config import BuildConfig
from gesso.finetune.instructions.config import InstructionsConfig
from gesso.finetune.labelled.config import TaskConfig
from gesso.launch.cli import COMMANDS
from gesso.launch.commands.plan import Planned
from gesso.launch.commands.pretrain import Run
from gesso.pretrain.experiment import Experiment
from gesso.settings.explain import (
    configs_in,
    explanations,
    first_sentence,
    groups,
    spell,
    summary,
)

CHECKOUT = Path(__file__).parents[2]


def every_config() -> Iterator[type]:
    """All that an experiment, a store's build and a recipe hold, and whatever stands beside them
    in a file of settings."""
    for root in (Experiment, BuildConfig, TaskConfig, InstructionsConfig):
        yield from configs_in(root)
    packages = [
        each.parent for each in CHECKOUT.glob("*/__init__.py") if each.parent.name[0] != "."
    ]
    for path in sorted(path for each in packages for path in each.rglob("*config.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        if parts[0] in ("tests", "benchmarks"):
            continue
        module = importlib.import_module(".".join(("gesso", *parts)))
        for each in vars(module).values():
            if isinstance(each, type) and dataclasses.is_dataclass(each):
                yield each


def every_command() -> Iterator[type]:
    yield from (Run, Planned)
    for command in COMMANDS.values():
        module, _, attribute = command.entry.partition(":")
        entry = getattr(importlib.import_module(f"gesso.launch.commands.{module}"), attribute)
        if isinstance(entry, type):
            yield entry


CONFIGS = sorted(set(every_config()), key=lambda each: (each.__module__, each.__name__))
OPTIONS = sorted(set(every_command()), key=lambda each: (each.__module__, each.__name__))


def problems(config: type) -> list[str]:
    """Fields without a sentence, and sentences that are none."""
    found = []
    for field, text in explanations(config).items():
        if not text:
            found.append(f"{config.__name__}.{field} has no sentence under it")
        elif not text[0].isupper() and text[0] != '"' or not text.endswith((".", ")")):
            found.append(f"{config.__name__}.{field}: a capital, a full stop: {text!r}")
        elif len(first_sentence(text)) > 240:
            found.append(f"{config.__name__}.{field}: the first sentence is too long for a help")
    return found


@pytest.mark.parametrize("config", [*CONFIGS, *OPTIONS], ids=lambda each: each.__qualname__)
def test_every_field_has_its_own_sentence(config: type) -> None:
    assert not problems(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda each: each.__qualname__)
def test_a_configs_own_docstring_is_one_sentence(config: type) -> None:
    told = summary(config)
    assert told.endswith(".") and first_sentence(told) == told


def test_all_families_objectives_and_commands_are_looked_at() -> None:
    names = {each.__name__ for each in CONFIGS}
    assert {"GPTConfig", "ELMoConfig", "EncoderDecoderConfig", "QAConfig", "MixedPart"} <= names
    assert {"PhaseConfig", "StageConfig", "MeshConfig", "ChatConfig", "OrderConfig"} <= names
    assert len(OPTIONS) >= 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """What is inside."""

    rate: float = 0.5
    """Share of it, in (0, 1). Lower it when it is too much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """A config. It has two sentences."""

    name: str
    """Name of it."""
    silent: int = 3
    small: int = 3
    """small letters"""
    kind: Literal["a", "b"] = "a"
    """Kind of it."""
    on: bool = True
    """Whether it is."""
    marked: Annotated[tuple[str, ...], "mark"] = ()
    """Names of others."""
    inner: Inner = Inner()
    """The inner one. More of it."""
    many: tuple[Inner, ...] = ()
    """Several."""
    limits: dict[str, int] = dataclasses.field(default_factory=lambda: {"x": 1})
    """Limits by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heir(Outer):
    """An heir."""

    name: str = "heir"
    own: int = 0
    """Its own."""


def test_the_check_finds_what_it_is_for() -> None:
    assert problems(Outer) == [
        "Outer.silent has no sentence under it",
        "Outer.small: a capital, a full stop: 'small letters'",
    ]
    assert first_sentence(summary(Outer)) != summary(Outer)


def test_a_field_given_again_keeps_its_sentence() -> None:
    assert explanations(Heir)["name"] == "Name of it."
    assert explanations(Heir)["own"] == "Its own."


def test_settings_are_spelled_as_the_command_line_takes_them() -> None:
    outer, inner, limits = groups(Outer)
    found = {each.path: each for each in outer.settings}
    assert found["name"].default == "required"
    assert found["kind"].choices == ("a", "b") and found["kind"].type == "NAME"
    assert found["on"].option == "--no-on"
    assert found["marked"].marks == ("mark",) and found["marked"].type == "TEXT ..."
    assert not found["many"].by_option
    assert "inner" not in found
    (rate,) = inner.settings
    assert (rate.option, rate.type, rate.default) == ("--inner.rate", "FLOAT", "0.5")
    assert rate.sentence == "Share of it, in (0, 1)."
    assert (inner.about, inner.text) == ("The inner one.", "What is inside.")
    assert [each.path for each in limits.settings] == ["limits.x"]
    several = list(groups(Outer(name="n", many=(Inner(), Inner(rate=0.1)))))
    assert [each.path for each in several[2:4]] == ["many.0", "many.1"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1e-8, "1e-08"), ("", '""'), ("a", "a"), ("\t", '"\\t"'), ((), "()"), ({}, "{}"),
        (("a", "b"), "a b"), (((1, 2), (3, 4)), "1 2 3 4"), ({"a": 0.5}, "a 0.5"),
    ],
)  # fmt: skip
def test_values_are_spelled_as_they_are_typed(value: object, written: str) -> None:
    assert spell(value) == written
