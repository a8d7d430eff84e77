"""`gesso pretrain EXPERIMENT`: run an experiment, or continue it, with any setting changed."""

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from gesso.launch.console import Refused, output, parse
from gesso.launch.help import EVERYDAY
from gesso.partitioning.machines.compiler_flags import apply
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment
from gesso.settings.explain import groups

_HELP = """\
usage: gesso pretrain EXPERIMENT [--folder RUN] [--SETTING VALUE ...]

Run an experiment, or continue it: the same command after a crash, a preemption or on another
number of devices goes on from the newest complete checkpoint in the run folder.

Examples:
  gesso pretrain debug-gpt-neo                          seconds, on a laptop's CPU
  gesso pretrain debug-gpt-neo --help                   its source, and the settings people change
  gesso pretrain debug-gpt-neo --help optimizer         one group of settings; --help-all has all
  gesso pretrain gpt-neo-125m --data.store my-store --steps 1000 --optimizer.learning-rate 3e-4
  gesso pretrain gpt-j-6b --mesh.fsdp 16 --mesh.tensor 4 --layout fsdp_tensor
  gesso pretrain runs/imported --data.store my-store     what a run folder records, continued

Experiments:"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What `gesso pretrain` was asked to do. named: the settings given explicitly."""

    experiment: Experiment
    folder: Path
    named: frozenset[str]


def pretrain(arguments: list[str]) -> int:
    """Entry of `gesso pretrain`: returns the exit status of the run."""
    from gesso.configs import registry

    if not arguments or arguments[0] in {"-h", "--help"}:
        output().print(_HELP, markup=False)
        output().print("\n".join(f"  {name}" for name in registry.names()), markup=False)
        if not arguments:
            raise Refused("say which experiment to run: gesso pretrain EXPERIMENT")
        return DONE
    if arguments[0].startswith("-"):
        raise Refused(
            f"the experiment's name comes first: gesso pretrain EXPERIMENT {' '.join(arguments)}"
        )
    asked = read(arguments)
    apply(os.environ)
    from gesso.pretrain.session import run

    return run(asked.experiment, folder=asked.folder, named=asked.named).status


def read(
    arguments: list[str], *, command: str = "pretrain", experiment: Experiment | None = None
) -> Asked:
    """["gpt-neo-125m", "--mesh.fsdp", "8"] -> the experiment and its folder. Imports no JAX.
    In place of a name, a run folder: the experiment that it records. experiment: what the settings
    change, that of the name by default. command: what it was asked by.

    Raises ValueError for an unknown experiment, SystemExit(2) for an unknown setting.
    """
    from gesso.configs import registry

    name, *settings = arguments
    recorded = Path(name) / "experiment.json"
    if experiment is None:
        experiment = _read_record(Path(name)) if recorded.is_file() else registry.experiment(name)
    folder = name if recorded.is_file() else f"runs/{experiment.name}"
    about = f"The run in {name}." if recorded.is_file() else registry.describe(name)
    run = Run(folder=folder)
    asked: Any = parse(
        _options(experiment, run),
        settings,
        prog=f"gesso {command} {name}",
        description=about,
        groups=itertools.chain(groups(run), groups(experiment)),
        everyday=EVERYDAY,
    )
    named = frozenset(
        each.removeprefix("--").partition("=")[0].replace("-", "_")
        for each in settings
        if each.startswith("--")
    )
    folder = asked.run.folder
    return Asked(experiment=asked.experiment, folder=Path(folder), named=named - {"folder"})


def _read_record(folder: Path) -> Experiment:
    from gesso.pretrain.folder.claim import read_experiment

    return read_experiment(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where the run goes."""

    folder: str
    """Run folder; it is made, or continued where it exists."""


def _options(experiment: Experiment, run: Run) -> type:
    """A dataclass of the experiment's settings, beside the folder of the run."""
    # name="" puts the settings on top: --steps, not --experiment.steps
    on_top = tyro.conf.arg(name="")
    return dataclasses.make_dataclass(
        "Pretrain",
        [
            ("run", Annotated[Run, on_top], dataclasses.field(default=run)),
            (
                "experiment",
                Annotated[type(experiment), on_top],
                dataclasses.field(default_factory=lambda: experiment),
            ),
        ],
        frozen=True,
        kw_only=True,
    )
