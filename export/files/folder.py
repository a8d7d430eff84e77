"""A new folder that takes its name when everything in it is on disk."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from gesso.export.files.tensors import FolderError
from gesso.storage.files import sync_folder, sync_tree


@contextlib.contextmanager
def new_folder(path: Path, *, mine: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder beside `path` that takes its name when the block ends, and vanishes when it fails.

    What is at `path` may be nothing, an empty folder, or one that `mine(folder)` recognises: it is
    replaced then. Raises FolderError otherwise.
    """
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise FolderError(f"{path} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not mine(path):
        some = ", ".join(sorted(each.name for each in path.iterdir())[:3])
        raise FolderError(
            f"{path} is not empty and not an earlier export ({some}); name another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.writing")
    part.mkdir()
    try:
        yield part
        sync_tree(part)
        old = path.with_name(f"{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        part.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
