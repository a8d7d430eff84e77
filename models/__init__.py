"""The equations: layers, attention, rotary positions, the GPT decoder, and what they cost."""

import importlib
from typing import Any

_HOME = {
    "BERTConfig": "models.config",
    "ELMoConfig": "models.config",
    "EncoderDecoderConfig": "models.config",
    "GPTConfig": "models.config",
    "Model": "models.model",
    "ModelConfig": "models.config",
    "Seq2SeqConfig": "models.config",
    "build": "models.model",
    "flops_per_token": "models.count",
    "parameters": "models.count",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"models has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
