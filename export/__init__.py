"""Other stacks: their folders read into our parameters, and our parameters written as theirs."""

import importlib
from typing import Any

_HOME = {
    "FolderError": "export.tensor_files",
    "Imported": "export.folder",
    "read_folder": "export.folder",
    "write_folder": "export.folder_writer",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"export has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
