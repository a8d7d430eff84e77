"""What every command shares: consoles, a command line parsed into a dataclass, and refusals."""

import contextlib
import dataclasses
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar, runtime_checkable

from rich.console import Console

from gesso.settings.explain import Group
from gesso.settings.explain import groups as settings_of
from gesso.settings.nearest import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Figures = dict[str, Any]  # what a command found out: numbers, texts, lists and dicts, as JSON
Options = TypeVar("Options", bound="DataclassInstance")


@runtime_checkable
class _Array(Protocol):
    def tolist(self) -> object:
        """Its elements, or the only one of an array without dims."""


class Refused(ValueError):
    """The request is wrong: nothing was touched, and repeating it will not help."""


def output() -> Console:
    """Where results go (stdout). Made on use, so that a redirected stream is honoured."""
    return _console(sys.stdout)


def narration() -> Console:
    """Where progress, explanations and errors go (stderr): `--json` on stdout stays clean."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    # A file or a pipe has no width: wide enough for every table, and no line is broken.
    width = None if stream.isatty() else 120
    return Console(file=stream, highlight=False, width=width, soft_wrap=width is not None)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, sort_keys=True, default=_plain))


def size(count: float) -> str:
    """Bytes for people: 24_100_000_000 -> "24.1 GB" (powers of 1000)."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= power:
            return f"{count / power:,.{0 if count >= 100 * power else 1}f} {unit}"
    return f"{count:.0f} bytes"


def existing(path: str, *, what: str) -> Path:
    """`path`, which must exist. Raises Refused with the nearest name beside it that does."""
    found = Path(path)
    if found.exists():
        return found
    missing = found  # the topmost part of the path that does not exist
    while not missing.parent.exists():
        missing = missing.parent
    beside = [each.name for each in missing.parent.iterdir()] if missing.parent.is_dir() else []
    hint = did_you_mean(missing.name, beside, most=3, show=lambda name: str(missing.parent / name))
    raise Refused(f"there is no {what} {path}{hint}")


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str = "",
    groups: Iterable[Group] = (),
    everyday: Sequence[str] = (),
) -> Options:
    """`arguments` read into the dataclass `options` by tyro.

    groups: the settings that --help explains, by default those of `options`; everyday: those of
    them that a short help shows, by default all. Exits with 0 after --help, with 2 after a message
    on stderr when the arguments do not fit.
    """
    # Here, so that commands which parse nothing start without them.
    import tyro

    from gesso.launch import help as pages

    if wanted := pages.request(arguments):
        explained = tuple(groups) or tuple(settings_of(options))
        width = pages.width_of(sys.stdout)
        told = pages.page(
            explained, wanted, prog=prog, description=description, everyday=everyday, width=width
        )
        pages.show(output(), told)
        raise SystemExit(0)
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)
    with _one_wording(options):
        return tyro.cli(
            options,
            prog=prog,
            args=list(arguments),
            description=description,
            config=markers,
        )


@contextlib.contextmanager
def _one_wording(options: type) -> Iterator[None]:
    """tyro's complaints in the wording of all our others: "did you mean", also for choices."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    finally:
        text = complaint.getvalue().replace("Perhaps you meant:", "did you mean:")
        if text:
            sys.stderr.write(text)
        if near := _near_choice(text):
            sys.stderr.write(f"{near}\n")


def _near_choice(complaint: str) -> str:
    """'did you mean adamw?' for tyro's complaint about a value that is none of the choices."""
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", complaint).split())
    found = re.search(r"invalid choice '([^']*)'.*?Expected one of \(([^)]*)\)", plain)
    if not found:
        return ""
    near = did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]), most=3, show=str)
    return near.removeprefix("; ")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, _Array):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
