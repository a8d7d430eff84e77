"""The run: experiment, state, step, loop, optimizer, checkpoints, metrics, report."""

import importlib
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'gesso.pretrain' has no attribute {name!r}")
