"""The equations: layers, attention, rotary positions, the GPT decoder, and what they cost."""

import importlib
from typing import Any

from gesso.models.families import FAMILIES

# class name -> the module it is in; each family's config is beside its equations.
_HOME: dict[str, str] = {
    name: module for module, _, name in (each.config.partition(":") for each in FAMILIES.values())
} | {
    "Model": "gesso.models.model",
    "ModelConfig": "gesso.models.config",
    "build": "gesso.models.model",
    "flops_per_token": "gesso.models.count",
    "parameters": "gesso.models.count",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"models has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
