"""The names in a folder of checkpoints: STEP, STEP.writing, STEP.deleting, rejected-STEP-..."""

import re
import shutil
import time
from pathlib import Path

from gesso.pretrain.checkpoints import manifest
from gesso.storage.files import sync_folder


def complete_steps(folder: Path) -> list[int]:
    """The checkpoints that have a manifest, oldest first."""
    return [s for s in _step_numbers(folder) if (folder / str(s) / manifest.NAME).is_file()]


def candidates(folder: Path, step: int | None) -> list[int]:
    """The checkpoints to look at, newest first, or `step` alone.

    A numbered folder that holds nothing was never a checkpoint; one without a manifest may have
    been. Raises ValueError when `step` is not there.
    """
    found = [s for s in _step_numbers(folder) if any((folder / str(s)).iterdir())]
    if step is None:
        return sorted(found, reverse=True)
    if step not in found:
        raise ValueError(f"there is no checkpoint {step} in {folder}; there are {found}")
    return [step]


def writing(folder: Path, step: int) -> Path:
    """Where a step is written before it gets its name."""
    return folder / f"{step}.writing"


def commit(folder: Path, step: int) -> None:
    """Give what was written its name, durably."""
    writing(folder, step).rename(folder / str(step))
    sync_folder(folder)


def set_aside(folder: Path, step: int) -> None:
    """Rename a damaged step, so that no restore takes it and nothing is lost."""
    (folder / str(step)).rename(folder / f"rejected-{step}-{time.time_ns()}")


def list_rejected(folder: Path) -> list[str]:
    """The paths of what was set aside."""
    return sorted(map(str, folder.glob("rejected-*")))


def clear(folder: Path) -> None:
    """Delete what interrupted saves and deletions left."""
    for left in (*folder.glob("*.writing*"), *folder.glob("*.deleting")):
        shutil.rmtree(left)


def make_way(folder: Path, step: int) -> None:
    """Make room for a new save of `step`."""
    for left in folder.glob(f"{writing(folder, step).name}*"):
        shutil.rmtree(left)
    if (folder / str(step)).exists():
        set_aside(folder, step)


def prune(folder: Path, *, keep_last: int, keep_every_steps: int) -> None:
    """Delete complete steps but the last ones and, where keep_every_steps is not 0, its multiples.

    Each loses its name first, so that a half deleted one is never restored.
    """
    for step in complete_steps(folder)[:-keep_last]:
        if not (keep_every_steps and step % keep_every_steps == 0):
            gone = (folder / str(step)).rename(folder / f"{step}.deleting")
            shutil.rmtree(gone)


def _step_numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (each.name for each in folder.iterdir() if each.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))
