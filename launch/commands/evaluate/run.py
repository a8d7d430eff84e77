"""What the ways of `gesso evaluate` share: a run opened on this machine's devices, progress."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.launch.console import Refused, narration

if TYPE_CHECKING:
    from gesso.objectives.config import ObjectiveConfig
    from gesso.pretrain.open import OpenRun


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A run whose params all devices hold parts of, whatever mesh it was trained on."""

    run: "OpenRun"
    params: Any
    mesh: Any
    layout: Any

    @property
    def compute(self) -> str:
        return self.run.experiment.precision.compute

    @property
    def objective(self) -> "ObjectiveConfig":
        """The config of what it was trained for."""
        return self.run.experiment.objective


def open_placed(folder: Path, *, step: int | None) -> Placed:
    """Open a run's checkpoint on all devices. Raises ValueError for a folder without one."""
    from gesso.pretrain.open import open_run

    return place(open_run(folder, step=step), folder)


def place(run: "OpenRun", folder: Path) -> Placed:
    """The same of a run that is open already."""
    import jax

    from gesso.partitioning.axes import placements
    from gesso.partitioning.config import MeshConfig
    from gesso.partitioning.layouts import LAYOUTS
    from gesso.partitioning.mesh import make_mesh

    mesh, layout = make_mesh(MeshConfig(data=1, fsdp=-1)), LAYOUTS["fsdp"]
    if run.experiment.model.sizes["D"] % mesh.shape["fsdp"]:
        mesh, layout = make_mesh(MeshConfig()), LAYOUTS["replicated"]
    letters = run.model.letters_of(run.params)
    params = jax.device_put(run.params, placements(letters, layout.at_rest, mesh))
    narration().print(f"evaluating step {run.step:,} of {folder} ...", style="dim", markup=False)
    return Placed(run=run, params=params, mesh=mesh, layout=layout)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, moved on by the function it gives."""
    from rich.progress import Progress

    with Progress(console=narration(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def needs(*modules: str) -> None:
    """Raises Refused where one of these libraries of the extra `evaluate` is not installed."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise Refused(
            f"{', '.join(missing)} is not installed; install the extra: pip install"
            " 'gesso[evaluate]'"
        )
