"""The run folder: whose it is, what it records about its experiment and its environment."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from gesso.pretrain.experiment import Experiment, ExperimentError, difference, from_json, to_json
from gesso.storage.files import leftovers

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gesso")


class Device(Protocol):
    """What the records say of a jax.Device; this module imports no JAX."""

    device_kind: str
    platform: str


class RunFolderError(ExperimentError):
    """A folder that is not a run's, or belongs to another experiment. Nothing was touched."""


def claim(folder: Path, experiment: Experiment, *, named: Collection[str] = ()) -> str:
    """Say whether `folder` is "new" or may be "continued" by `experiment`; writes nothing.

    `named`: settings ("optimizer.learning_rate") the user gave explicitly; they may differ from the
    stored experiment. Raises RunFolderError for any other difference that changes the run, and for
    a folder that holds something else.
    """
    record = folder / "experiment.json"
    if record.exists():
        stored = json.loads(record.read_text())
        # Read and written again: a setting that did not exist yet was what its default is now.
        changed = difference(to_json(from_json(stored)), to_json(experiment))
        refused = {
            key: pair
            for key, pair in changed.items()
            if not any(key == name or key.startswith(name + ".") for name in named)
        }
        if refused:
            listed = "".join(
                f"\n  - {key}: {old!r} there, {new!r} asked" for key, (old, new) in refused.items()
            )
            raise RunFolderError(
                f"{folder} holds a run of {stored.get('name')!r} that differs from the one asked:"
                f"{listed}\nuse another --folder, or name the setting on the command line to change"
                " it from the next step on"
            )
        return "continued"
    names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    # What a run that died before its first record may have left.
    left = {"run.lock", *(each.name for each in leftovers(folder))} if names else set()
    if others := [name for name in names if not (name in left or name.startswith("log."))]:
        some = ", ".join(others[:3])
        raise RunFolderError(f"{folder} is not empty and not a run ({some}); use another --folder")
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; use another --folder")
    return "new"


def read_experiment(folder: Path) -> Experiment:
    """The experiment a run folder records. Raises RunFolderError where there is none."""
    record = folder / "experiment.json"
    if not record.exists():
        raise RunFolderError(f"{folder} is not a run folder: it has no experiment.json")
    return from_json(json.loads(record.read_text()))


def versions() -> dict[str, str]:
    """{package: version} of what decides the numbers, and Python's own."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment(devices: Sequence[Device], processes: int) -> dict[str, Any]:
    """What a reader needs to run this again: versions, devices, host, commit, command."""
    return {
        "versions": versions(),
        "devices": {
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "count": len(devices),
            "processes": processes,
        },
        "host": {"name": socket.gethostname(), "system": platform.platform()},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
        "command": sys.argv,
    }


def _commit() -> str:
    """The checkout's commit, with "+changes" where files differ; "" for an installed wheel."""
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # A wheel may be installed below another project's checkout: that commit is not ours.
        if git("rev-parse", "--show-toplevel") != str(here):
            return ""
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if commit and git("status", "--porcelain") else "")
    except OSError:
        return ""
