"""The run: experiment, state, step, loop, optimizer, checkpoints, metrics, report."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.pretrain.experiment import Experiment, ExperimentError
    from gesso.pretrain.session import RunResult, run
    from gesso.reports.report import write_report

_PUBLIC = {
    "Experiment": "gesso.pretrain.experiment",
    "ExperimentError": "gesso.pretrain.experiment",
    "run": "gesso.pretrain.session",
    "RunResult": "gesso.pretrain.session",
    "write_report": "gesso.reports.report",
}
__all__ = ["Experiment", "ExperimentError", "RunResult", "run", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pretrain' has no attribute {name!r}")
