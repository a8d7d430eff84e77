"""What a position costs: objectives, and the cross-entropy they share."""

import importlib
from typing import Any

_HOME = {
    "BiLMConfig": "gesso.objectives.config",
    "CausalLM": "gesso.objectives.causal",
    "CausalLMConfig": "gesso.objectives.config",
    "ClassifyConfig": "gesso.objectives.config",
    "DenoiseConfig": "gesso.objectives.config",
    "MaskedLM": "gesso.objectives.masked",
    "MaskedLMConfig": "gesso.objectives.config",
    "MixedConfig": "gesso.objectives.config",
    "Objective": "gesso.objectives.base",
    "ObjectiveConfig": "gesso.objectives.config",
    "QAConfig": "gesso.objectives.config",
    "RegressConfig": "gesso.objectives.config",
    "Seq2SeqLMConfig": "gesso.objectives.config",
    "TagConfig": "gesso.objectives.config",
    "Term": "gesso.objectives.base",
    "build": "gesso.objectives.kinds",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"objectives has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)
