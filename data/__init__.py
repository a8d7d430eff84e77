"""Raw text to batches: sources, token store, exact order, loader. Names are imported on first use.

`build` is not among them: a package attribute named like its submodule would change meaning with
the order of imports. Say `from gesso.data.store.build import build`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.data.embedded.corpus import ensure_store
    from gesso.data.loader import Loader
    from gesso.data.open import open_store, rows
    from gesso.data.order.order import Order
    from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer

_HOMES = {
    "open_store": "gesso.data.open",
    "load_tokenizer": "gesso.data.tokenizers.load",
    "save_tokenizer": "gesso.data.tokenizers.load",
    "Order": "gesso.data.order.order",
    "rows": "gesso.data.open",
    "Loader": "gesso.data.loader",
    "ensure_store": "gesso.data.embedded.corpus",
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
