"""Writes docs/settings.md: every setting, with the sentence that the help shows beside it.

python -m gesso.launch.reference [FILE]
"""

import dataclasses
import importlib
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.data.config import BuildConfig
from gesso.finetune.instructions.config import InstructionsConfig
from gesso.finetune.labelled.config import TaskConfig
from gesso.launch.cli import COMMANDS
from gesso.launch.commands.plan import Planned
from gesso.launch.help import head
from gesso.pretrain.experiment import Experiment
from gesso.settings.explain import Group, Setting, groups, summary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = type[DataclassInstance]

FILE = Path(__file__).parents[1] / "docs/settings.md"
_INTRODUCTION = """\
# Settings

Written by `python -m gesso.launch.reference` from the sentences under the fields of the configs;
change those, and run it again. `gesso pretrain EXPERIMENT --help` shows the settings that people
change with that experiment's values, `--help GROUP` one group, `--help-all` everything.

A setting is an option of the command line (`optimizer.learning_rate` is
`--optimizer.learning-rate`), a key of `overrides={...}` in Python, and a path in a run's
`experiment.json`. Defaults are those of the config; an experiment has its own.
"""
_BUILDERS = (
    ("A token store: `gesso corpus build`", BuildConfig),
    ("A task store: `gesso task build`", TaskConfig),
    ("An instruction store: the recipe of `gesso instructions build`", InstructionsConfig),
)


def reference() -> str:
    """The page."""
    parts = [_INTRODUCTION, "## An experiment", *_sections(Experiment)]
    for title, config in _BUILDERS:
        parts += [f"## {title}", *_sections(config)]
    parts += ["## Options of the commands", *_commands()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _sections(root: "Config") -> Iterator[str]:
    """A table for every config inside `root`, under the paths it is found at."""
    places: dict[Config, list[str]] = {}
    _place(root, "", places)
    for config, paths in places.items():
        title = " and ".join(f"`{path}`" for path in paths if path)
        if title:
            yield f"### {title}: {config.__name__}"
        yield summary(config)
        own = next(groups(config, paths[0])).settings
        inside = {path for each in places.values() for path in each}
        yield _table(each for each in own if each.path not in inside)


def _place(config: "Config", path: str, places: "dict[Config, list[str]]") -> None:
    places.setdefault(config, []).append(path)
    for name, hint in typing.get_type_hints(config).items():
        for each, below in _configs(hint):
            _place(each, f"{path}.{name}{below}".lstrip("."), places)


def _configs(hint: object) -> Iterator[tuple["Config", str]]:
    """(config, what stands behind the field's name in the path) of a field's type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint, ""
    below = {tuple: ".N", dict: ".NAME"}.get(typing.get_origin(hint) or object, "")
    for each in typing.get_args(hint):
        yield from ((config, below + more) for config, more in _configs(each))


def _commands() -> Iterator[str]:
    for name, command in COMMANDS.items():
        module, _, attribute = command.entry.partition(":")
        entry = getattr(importlib.import_module(f"gesso.launch.commands.{module}"), attribute)
        if name == "plan":
            entry = Planned
        if isinstance(entry, type):
            (group,) = [*groups(entry)]
            yield f"### gesso {name}"
            yield f"{command.summary[0].upper()}{command.summary[1:]}."
            yield _options(group)


def _table(settings: typing.Iterable[Setting]) -> str:
    rows = ["| setting | takes | default | what it is |", "|---|---|---|---|"]
    for each in settings:
        default = "required" if each.default == "required" else _code(each.default)
        rows.append(f"| {_code(each.path)} | {_takes(each)} | {default} | {_cell(each.text)} |")
    return "\n".join(rows)


def _options(group: Group) -> str:
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for each in group.settings:
        required = each.default == "required"
        default = "required" if required else "" if each.value is None else _code(each.default)
        rows.append(f"| {_code(head(each))} | {default} | {_cell(_sentence(each))} |")
    return "\n".join(rows)


def _sentence(setting: Setting) -> str:
    if len(setting.choices) < 2 or all(each in setting.text for each in setting.choices):
        return setting.text
    return f"{setting.text} One of {', '.join(setting.choices)}."


def _takes(setting: Setting) -> str:
    if setting.type == "NAME":
        return ", ".join(_code(each) for each in setting.choices)
    if setting.choices:
        return " ".join(_code(each) for each in setting.choices) + " ..."
    return setting.type


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _cell(text: str) -> str:
    """A sentence inside a table: what Markdown would take for a column or a tag is escaped."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    to.write_text(reference(), encoding="utf-8")
    print(to)
