"""Gesso pretrains language models in JAX. Names are imported on first use: no JAX comes with
`import gesso`.

    import gesso

    result = gesso.run(gesso.experiment("debug-gpt-neo"), folder="runs/mine")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.configs import describe, experiment, names
    from gesso.data import Loader, Order, load_tokenizer, open_store, rows, save_tokenizer
    from gesso.export import FolderError, Imported, read_folder, write_folder
    from gesso.models import Model, build, flops_per_token, parameters
    from gesso.pretrain import Experiment, ExperimentError, RunResult, run, write_report

# Where each public name is offered; the faces of these packages say in which module it lives.
_HOMES = {
    "Experiment": "pretrain",
    "ExperimentError": "pretrain",
    "FolderError": "export",
    "Imported": "export",
    "Loader": "data",
    "Model": "models",
    "Order": "data",
    "RunResult": "pretrain",
    "build": "models",
    "describe": "configs",
    "experiment": "configs",
    "flops_per_token": "models",
    "load_tokenizer": "data",
    "names": "configs",
    "open_store": "data",
    "parameters": "models",
    "read_folder": "export",
    "rows": "data",
    "run": "pretrain",
    "save_tokenizer": "data",
    "write_folder": "export",
    "write_report": "pretrain",
}

__all__ = [
    "Experiment",
    "ExperimentError",
    "FolderError",
    "Imported",
    "Loader",
    "Model",
    "Order",
    "RunResult",
    "build",
    "describe",
    "experiment",
    "flops_per_token",
    "load_tokenizer",
    "names",
    "open_store",
    "parameters",
    "read_folder",
    "rows",
    "run",
    "save_tokenizer",
    "write_folder",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"gesso.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gesso' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
