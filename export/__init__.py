"""Other stacks: their folders read into our parameters, and our parameters written as theirs."""

import importlib
from typing import Any

_HOME = {
    "FolderError": "gesso.export.files.tensors",
    "Imported": "gesso.export.reading",
    "read_folder": "gesso.export.reading",
    "write_folder": "gesso.export.writing",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"export has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
