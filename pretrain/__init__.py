"""The run: experiment, state, step, loop, optimizer, checkpoints, metrics, report."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.experiment import Experiment, ExperimentError
    from pretrain.report import write_report
    from pretrain.session import RunResult, run

_PUBLIC = {
    "Experiment": "pretrain.experiment",
    "ExperimentError": "pretrain.experiment",
    "run": "pretrain.session",
    "RunResult": "pretrain.session",
    "write_report": "pretrain.report",
}
__all__ = ["Experiment", "ExperimentError", "RunResult", "run", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pretrain' has no attribute {name!r}")
