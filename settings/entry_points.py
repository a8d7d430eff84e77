"""What other installed packages add to Gesso: their entry points, read when a name is not ours.

A package names them in its pyproject.toml:

    [project.entry-points."gesso.experiments"]
    my-experiment = "my_package.experiments:my_experiment"
"""

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points

EXPERIMENTS = "gesso.experiments"  # name -> a function without arguments that returns an Experiment
FAMILIES = "gesso.families"  # name -> a gesso.models.families.Family


class EntryPointError(ValueError):
    """An entry point that cannot be used. The message is one line and names its package."""


def find(group: str, name: str) -> EntryPoint | None:
    """The entry point of that name; None if no package has one.

    Raises EntryPointError if two packages have it: none is preferred.
    """
    found = list(entry_points(group=group, name=name))
    if len(found) > 1:
        packages = " and ".join(sorted(map(_package, found)))
        raise EntryPointError(f"{name!r} of {group} is in two packages, {packages}: remove one")
    return found[0] if found else None


def others(group: str, ours: Collection[str]) -> tuple[list[str], list[str]]:
    """The names that other packages add, and one line for each that is refused: a name of ours is
    never replaced, and a name in two packages is neither's."""
    names: list[str] = []
    refused: list[str] = []
    for name in sorted({entry.name for entry in entry_points(group=group)}):
        try:
            entry = find(group, name)
        except EntryPointError as error:
            refused.append(str(error))
            continue
        if entry is not None and name in ours:
            refused.append(
                f"{name!r} of {group} in {_package(entry)} is refused: Gesso has one of that name"
            )
        else:
            names.append(name)
    return names, refused


def load(entry: EntryPoint) -> object:
    """What the entry point names. Raises EntryPointError if importing it fails in any way."""
    try:
        return entry.load()
    except Exception as error:  # another's code: whatever it raises is said in one line
        raise broken_error(entry, error) from error


def load_function(entry: EntryPoint) -> Callable[..., object]:
    """As `load`; raises EntryPointError if what it names cannot be called."""
    loaded = load(entry)
    if not callable(loaded):
        raise EntryPointError(f"{_name(entry)} is not a function or class")
    return loaded


def broken_error(entry: EntryPoint, error: Exception) -> EntryPointError:
    """The error to raise for one that loading or calling the entry point ended in."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return EntryPointError(f"{_name(entry)} failed: {reason}")


def _name(entry: EntryPoint) -> str:
    return f"{entry.name!r} of {entry.group} in {_package(entry)} ({entry.value})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unnamed package"
