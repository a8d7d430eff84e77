"""The equations: layers, attention, rotary positions, the GPT decoder, and what they cost."""

import importlib
from typing import Any

_HOME = {
    "BERTConfig": "gesso.models.config",
    "ELMoConfig": "gesso.models.config",
    "EncoderDecoderConfig": "gesso.models.config",
    "GPTConfig": "gesso.models.config",
    "Model": "gesso.models.model",
    "ModelConfig": "gesso.models.config",
    "Seq2SeqConfig": "gesso.models.config",
    "build": "gesso.models.model",
    "flops_per_token": "gesso.models.count",
    "parameters": "gesso.models.count",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"models has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
