"""Raw text to batches: sources, token store, exact order, loader. Names are imported on first use.

`build` is not among them: a package attribute named like its submodule would change meaning with
the order of imports. Say `from data.build import build`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.embedded import ensure_store
    from data.loader import Loader
    from data.order import Order, rows
    from data.store import open_store
    from data.tokenizer import load_tokenizer, save_tokenizer

_HOMES = {
    "open_store": "data.store",
    "load_tokenizer": "data.tokenizer",
    "save_tokenizer": "data.tokenizer",
    "Order": "data.order",
    "rows": "data.order",
    "Loader": "data.loader",
    "ensure_store": "data.embedded",
}

__all__ = [
    "Loader",
    "Order",
    "ensure_store",
    "load_tokenizer",
    "open_store",
    "rows",
    "save_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'data' has no attribute {name!r}; it has {', '.join(__all__)}")
