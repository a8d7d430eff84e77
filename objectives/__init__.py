"""What a position costs: objectives, and the cross-entropy they share."""

import importlib
from typing import Any

_HOME = {
    "BiLMConfig": "objectives.config",
    "CausalLM": "objectives.causal",
    "CausalLMConfig": "objectives.config",
    "ClassifyConfig": "objectives.config",
    "DenoiseConfig": "objectives.config",
    "MaskedLM": "objectives.masked",
    "MaskedLMConfig": "objectives.config",
    "MixedConfig": "objectives.config",
    "Objective": "objectives.base",
    "ObjectiveConfig": "objectives.config",
    "QAConfig": "objectives.config",
    "RegressConfig": "objectives.config",
    "Seq2SeqLMConfig": "objectives.config",
    "TagConfig": "objectives.config",
    "Term": "objectives.base",
    "build": "objectives.base",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"objectives has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
