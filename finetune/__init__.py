"""Starting points and tasks for the one training loop. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.chat import ChatTemplate
    from finetune.examples import load
    from finetune.instructions import build_instructions

_HOMES = {
    "ChatTemplate": "finetune.chat",
    "build_instructions": "finetune.instructions",
    "load": "finetune.examples",
}

__all__ = ["ChatTemplate", "build_instructions", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(
        f"module 'finetune' has no attribute {name!r}; it has {', '.join(__all__)}"
    )
