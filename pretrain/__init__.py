"""The run: experiment, state, step, loop, optimizer, checkpoints, metrics, report."""

import importlib
from typing import Any

_PUBLIC = {
    "Experiment": "pretrain.experiment",
    "ExperimentError": "pretrain.experiment",
    "run": "pretrain.run",
    "RunResult": "pretrain.run",
    "write_report": "pretrain.report",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pretrain' has no attribute {name!r}")
