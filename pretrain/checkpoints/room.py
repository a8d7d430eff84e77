"""Before anything is computed: can checkpoints be written to this folder, and is there room."""

import errno
import os
import shutil
from pathlib import Path

_COPIES = 2.2  # a complete one, one being written, and a tenth for the rest of the run folder


class FolderUnusable(ValueError):
    """Checkpoints could not be written here. Nothing but a probe file was written."""


def check_folder(folder: Path, *, state_bytes: int, complete: int = 0) -> None:
    """Write, fsync, rename and delete a probe, and compare the free space with 2.2 times the state.

    complete: how many checkpoints of the run are there already; their room is used again. Raises
    FolderUnusable.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        with probe.open("wb") as f:
            f.write(b"probe")
            f.flush()
            os.fsync(f.fileno())
        renamed = probe.rename(probe.with_name(probe.name + "-renamed"))
        renamed.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _too_small(folder, state_bytes, _COPIES) from error
        raise FolderUnusable(
            f"cannot write to {folder}: {error.strerror}; make it writable or use another folder"
        ) from error
    copies = max(_COPIES / 2, _COPIES - 1.1 * complete)
    if shutil.disk_usage(folder).free < copies * state_bytes:
        raise _too_small(folder, state_bytes, copies)


def _too_small(folder: Path, state_bytes: int, copies: float) -> FolderUnusable:
    free = shutil.disk_usage(folder).free
    return FolderUnusable(
        f"{folder} has {free / 1e9:.2f} GB free, but checkpoints need"
        f" {copies * state_bytes / 1e9:.2f} GB: {copies:.1f} times a state of"
        f" {state_bytes / 1e9:.2f} GB; free some, or use a folder on a larger disk"
    )
