"""Held-out perplexity, what to compare it with, and text from a model. Loaded when first used.

`baselines` and `generate` carry the name of their module, so they are imported from there:
`from gesso.evaluation.heldout.baselines import baselines`, `from
gesso.evaluation.generation.decoder import generate`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.evaluation.heldout.perplexity import evaluate_heldout

__all__ = ["evaluate_heldout"]

_WHERE = {"evaluate_heldout": "gesso.evaluation.heldout.perplexity"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
