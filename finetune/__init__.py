"""Starting points and tasks for the one training loop. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gesso.finetune.instructions.build import build_instructions
    from gesso.finetune.instructions.chat import ChatTemplate
    from gesso.finetune.instructions.examples import load

_HOMES = {
    "ChatTemplate": "gesso.finetune.instructions.chat",
    "build_instructions": "gesso.finetune.instructions.build",
    "load": "gesso.finetune.instructions.examples",
}

__all__ = ["ChatTemplate", "build_instructions", "load"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(
        f"module 'gesso.finetune' has no attribute {name!r}; it has {', '.join(__all__)}"
    )
