"""`--help` as a page: every option with its default and its sentence (settings/explain.py).

A command that takes an experiment has over a hundred settings. Its --help shows those that people
change and the groups there are, --help GROUP one group, --help-all everything.
"""

import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import tyro
from rich.console import Console
from rich.text import Text

from gesso.settings.explain import Group, Setting
from gesso.settings.nearest import did_you_mean

# What people change, in the order they ask for it. A family or an objective has only some of them.
EVERYDAY = (
    "folder",
    "steps",
    "batch",
    "length",
    "seed",
    "data.store",
    "data.packing",
    "start.source",
    "trainable",
    "adapter.kind",
    "model.vocab",
    "model.positions",
    "model.layers",
    "model.encoder_layers",
    "model.decoder_layers",
    "model.embed",
    "model.heads",
    "model.labels",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.schedule.kind",
    "optimizer.schedule.warmup_steps",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "precision.compute",
    "microbatches",
    "model.remat",
    "model.attention",
    "layout",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "checkpoint.every_steps",
    "checkpoint.keep_last",
    "evaluation.every_steps",
    "evaluation.sample_every_steps",
    "logging.every_steps",
    "logging.wandb",
)
# Those of them that change whether a step fits and how long it takes.
PLANNED = (
    "batch",
    "length",
    "steps",
    "microbatches",
    *(name for name in EVERYDAY if name.startswith("model.")),
    "mesh.replica",
    "mesh.data",
    "mesh.fsdp",
    "mesh.sequence",
    "mesh.tensor",
    "layout",
    "optimizer.name",
    "precision.params",
    "precision.compute",
    "trainable",
    "adapter.kind",
)
_ASK = ("-h", "--help", "--help-all")
# Settings that say nothing to those whose model lacks what they are about.
_SHOWN_IF_SET = {"model.labels"}
_INDENT = "  "


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody wants to be told."""

    everything: bool
    """Whether all settings are meant, not the everyday ones alone."""
    topic: str
    """A group or a setting such as "optimizer" or "optimizer.name"; "" = all of them."""


def request(arguments: Sequence[str]) -> Asked | None:
    """The help that a command line asks for; None where it asks for none."""
    for at, each in enumerate(arguments):
        option, _, topic = each.partition("=")
        if option not in _ASK:
            continue
        if not topic and at + 1 < len(arguments) and not arguments[at + 1].startswith("-"):
            topic = arguments[at + 1]
        topic = topic.removeprefix("--").replace("-", "_")
        return Asked(everything=option == "--help-all", topic=topic)
    return None


def page(
    groups: Sequence[Group],
    wanted: Asked,
    *,
    prog: str,
    description: str,
    everyday: Sequence[str] = (),
    width: int = 100,
) -> Iterator[Text]:
    """The lines of the help. everyday: the settings that a short help shows; () = all of them.

    Raises ValueError for a topic that is neither a group nor a setting, with the nearest one.
    """
    groups = _merge(groups)
    if wanted.topic:
        yield from _topic(groups, wanted.topic, prog=prog, width=width)
        return
    yield Text(_usage(groups, prog, everyday), style="bold")
    yield Text()
    yield from _paragraphs(description, width)
    if everyday and not wanted.everything:
        yield from _everyday(groups, everyday, prog=prog, width=width)
        return
    for group in groups:
        yield from _group(group, width=width, title=group.path or "Options")
    yield Text()
    yield from _entry(_name("-h, --help"), Text("Show this page."), width, _column(width))


def _paragraphs(description: str, width: int) -> Iterator[Text]:
    """A docstring's lines, refilled where the page is narrower; what is indented stays as it is."""
    if all(len(line) <= width for line in description.splitlines()):
        yield from (Text(line) for line in description.splitlines())
        return
    for filled, lines in itertools.groupby(
        description.splitlines(), key=lambda line: bool(line) and not line.startswith(" ")
    ):
        if filled:
            yield from _wrap(Text(" ".join(lines)), width, indent=0)
        else:
            yield from (Text(line) for line in lines)


def _merge(groups: Sequence[Group]) -> list[Group]:
    """One group per path: a command's own options and an experiment's stand together on top."""
    found: dict[str, Group] = {}
    for each in groups:
        before = found.get(each.path)
        settings = (*before.settings, *each.settings) if before else each.settings
        found[each.path] = replace(each, settings=settings)
    return list(found.values())


def show(console: Console, lines: Iterator[Text]) -> None:
    """Print the lines as they are: they are wrapped already."""
    for line in lines:
        console.print(line, soft_wrap=True)


def width_of(stream: object) -> int:
    """Columns to fill: the terminal's, within what reads well; of a pipe COLUMNS, or 100."""
    fallback = 100 if stream is sys.stdout and not sys.stdout.isatty() else 80
    return max(60, min(shutil.get_terminal_size((fallback, 50)).columns, 120))


def _usage(groups: Sequence[Group], prog: str, everyday: Sequence[str]) -> str:
    if everyday:
        return f"usage: {prog} [--SETTING VALUE ...]"
    own = [each for each in groups[0].settings if not _positional(each)]
    needed = " ".join(head(each) for each in own if each.default == "required")
    named = " ".join(_placeholder(each) for each in groups[0].settings if _positional(each))
    parts = (prog, named, needed, "[OPTIONS]")
    return f"usage: {' '.join(part for part in parts if part)}"


def _everyday(
    groups: Sequence[Group], everyday: Sequence[str], *, prog: str, width: int
) -> Iterator[Text]:
    known = {each.path: each for group in groups for each in group.settings}
    shown = [known[name] for name in everyday if name in known]
    shown = [each for each in shown if each.value or each.path not in _SHOWN_IF_SET]
    yield Text()
    yield Text("Settings that people change, with their [values] here", style="bold")
    column = _column(width)
    for each in shown:
        yield from _setting(each, width, column, text=each.sentence)
    yield Text()
    yield Text("All settings, by group", style="bold")
    listed = {"run": (sum("." not in each for each in known), "The run itself.")}
    for group in groups:
        top = group.path.partition(".")[0]
        if top and top not in listed:
            inside = sum(each.startswith(f"{top}.") for each in known)
            listed[top] = (inside, next(each.about for each in groups if each.path.startswith(top)))
    for name, (count, about) in listed.items():
        told = Text(f"{count:3} settings. {about}")
        told.truncate(width - _GROUPS, overflow="ellipsis")
        yield from _entry(_name(f"--help {name}"), told, width, _GROUPS)
    whole = Text(f"{len(known):3} settings, with all that is known of each.")
    yield from _entry(_name("--help-all"), whole, width, _GROUPS)
    yield Text(f"\n({prog.rpartition(' ')[0]} --help says how to use it.)", style="dim")


def _topic(groups: Sequence[Group], topic: str, *, prog: str, width: int) -> Iterator[Text]:
    meant = [
        each for each in groups if each.path == topic or each.path.startswith(f"{topic}.")
    ] or [each for each in groups if topic == "run" and not each.path]
    for group in meant:
        yield from _group(group, width=width, title=group.path or "run")
    if meant:
        return
    settings = [each for group in groups for each in group.settings]
    for each in settings:
        if each.path == topic:
            yield from _setting(each, width, _column(width), text=each.text)
            return
    known = [*(group.path for group in groups if group.path), *(each.path for each in settings)]
    near = did_you_mean(topic, known, show=str, otherwise=f"{prog} --help lists them")
    raise ValueError(f"there is no group or setting {topic!r}{near}")


def _group(group: Group, *, width: int, title: str) -> Iterator[Text]:
    yield Text()
    yield Text(title, style="bold")
    if group.path:
        yield from _wrap(Text(group.text), width, indent=0)
    for each in sorted(group.settings, key=_positional, reverse=True):
        yield from _setting(each, width, _column(width), text=each.text)


def _setting(setting: Setting, width: int, column: int, *, text: str) -> Iterator[Text]:
    body = Text(text)
    if not all(each in text for each in setting.choices) and len(setting.choices) > 1:
        choices = ", ".join(each for each in setting.choices)
        body.append(f" One of {choices}." if body else f"One of {choices}.")
    name = Text(_INDENT).append(head(setting), style="cyan").append(_default(setting), style="dim")
    yield from _entry(name, body, width, column)


def _default(setting: Setting) -> str:
    if not setting.by_option:
        return " (set in an experiment's function)"
    if setting.default == "required":
        return " (required)"
    if setting.value is None or setting.value is False or _positional(setting):
        return ""
    return f" [{'on' if setting.value is True else setting.default}]"


def head(setting: Setting) -> str:
    """An option with what it takes, or a positional argument's name."""
    if _positional(setting):
        return _placeholder(setting)
    if not setting.by_option:
        return setting.path
    return setting.option + ("" if setting.type == "BOOL" else f" {setting.type}")


def _positional(setting: Setting) -> bool:
    return tyro.conf.Positional in setting.marks


def _placeholder(setting: Setting) -> str:
    name = setting.path.upper()
    return f"{name.removesuffix('S')} ..." if setting.type.endswith("...") else name


_WIDE = 90  # columns from which options and sentences stand side by side
_GROUPS = 22  # columns that the names of groups take


def _column(width: int) -> int:
    return 44 if width >= _WIDE else 6


def _name(option: str) -> Text:
    return Text(_INDENT).append(option, style="cyan")


def _entry(head: Text, body: Text, width: int, column: int) -> Iterator[Text]:
    """An option and what it is: side by side, or one below the other where there is no room."""
    lines = list(_wrap(body, width, indent=column))
    if len(head) + 1 <= column and lines:
        head = head.copy().append(" " * (column - len(head))).append(lines.pop(0)[column:])
    yield from head.wrap(_PLAIN, width)
    yield from lines


def _wrap(body: Text, width: int, *, indent: int) -> Iterator[Text]:
    for line in body.wrap(_PLAIN, width - indent):
        line.rstrip()
        yield Text(" " * indent).append(line)


_PLAIN = Console(width=200)
