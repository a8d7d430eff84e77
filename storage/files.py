"""Files that a crash cannot tear: how everything small that Gesso records is written.

Atomic: whoever opens the file finds the old content or the new one, never a part of it, also when
the writer is killed half-way and when several write at once (then one of them wins).
Durable: once a call returns, a power cut takes neither the content nor the name.
`write_durably` and `write_json` are both. What a killed writer leaves beside the file is a
temporary file; `leftovers` finds those.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LEFTOVER = re.compile(r".+\.\d+-\d+\.tmp")


def _ignore(where: str) -> None:
    pass


def write_json(path: Path, record: Any) -> None:
    """Write one JSON document, atomically and durably, indented by one space."""
    write_durably(path, json.dumps(record, indent=1) + "\n")


def write_durably(
    path: Path, content: str | bytes, *, step: Callable[[str], None] = _ignore
) -> None:
    """Write a whole file (text in UTF-8), atomically and durably; folders above it are made.

    step: called with "written NAME" and "renamed NAME" between the operations, for tests that kill
    the process there. An OSError leaves the old file as it was.
    """
    path = Path(path)
    _make_folder(path.parent)
    # A name of its own for each writer: two that shared one would finish each other's file.
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power cut may leave an empty file
        step(f"written {path.name}")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    step(f"renamed {path.name}")
    sync_folder(path.parent)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in `folder` whose writer was killed, or is still writing: delete them only
    where nobody else may write."""
    return sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def sync_tree(folder: Path) -> None:
    """Make every file and folder under `folder` durable, and the names in `folder` itself."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        sync_folder(Path(place))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files created, renamed or deleted there."""
    _sync(folder)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
