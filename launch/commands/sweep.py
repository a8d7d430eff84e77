"""`gesso sweep SWEEP`: many runs of one experiment, some at a time, and what came of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table

from gesso.launch.console import Figures, Refused, narration, output, print_json
from gesso.pretrain.exits import DONE, FAILED

if TYPE_CHECKING:
    import optuna

    from gesso.configs.sweeps import Sweep


@dataclass(frozen=True, kw_only=True)
class RunSweep:
    """Run a sweep (configs/sweeps.py), or continue it: the same command after a crash continues.

    Every trial is a `gesso pretrain` command in a process of its own; --show commands prints them
    without running any. optuna records the trials in sweep.db of the folder, or in the database
    --storage names (postgresql://...), which several machines can share.

    Example:
      gesso sweep debug-rates --parallel 2
      gesso sweep debug-rates --show commands
      gesso sweep debug-rates --show results --json
      gesso sweep debug-sizes --show page
    """

    sweep: tyro.conf.Positional[str]
    """Name of the sweep; `gesso sweep list` shows them all."""
    folder: str = ""
    """Folder of the runs; sweeps/NAME by default."""
    parallel: int = 1
    """Trials that run at once."""
    show: Literal["run", "commands", "results", "page"] = "run"
    """What to do: "run" it, print the "commands" of its trials or their "results", or write its
    "page". The page is sweep.html in the folder, as a run writes it at its end: choices, curves,
    and a scaling law where sizes and lengths vary."""
    storage: str = ""
    """Storage of optuna; "" = SQLite in the folder."""
    json: bool = False
    """Print the results as JSON."""

    def run(self) -> int:
        from gesso.configs.sweeps import SWEEPS, sweep

        if self.sweep == "list":
            for name, function in SWEEPS.items():
                told = " ".join((function.__doc__ or "").split("gesso")[0].split())
                output().print(f"{name}: {told}", markup=False, soft_wrap=True)
            return DONE
        if self.parallel < 1:
            raise Refused(f"--parallel must be at least 1, not {self.parallel}")
        asked = sweep(self.sweep)
        folder = Path(self.folder or f"sweeps/{asked.name}")
        try:
            from gesso.launch import trials as sweep_run
        except ImportError:
            raise Refused("a sweep needs optuna: pip install -e .[sweep]") from None
        _check(asked)
        if self.show == "commands":
            import shlex

            choices = asked.choices()
            if choices is None:
                raise Refused(f"{asked.method} decides as it goes: its commands are not known yet")
            for i, choice in enumerate(choices):
                told = sweep_run.command(asked, choice, folder / f"{i:04d}")
                output().print(shlex.join(["gesso", *told]), markup=False, soft_wrap=True)
            return DONE
        study = sweep_run.open_study(asked, folder, self.storage)
        if self.show == "run":
            sweep_run.run_sweep(
                asked,
                study,
                folder,
                parallel=self.parallel,
                told=lambda text: narration().print(text, markup=False, soft_wrap=True),
            )
        results = _results(asked, study, folder)
        if self.show in ("run", "page"):
            page = _page(asked, results, folder)
            narration().print(f"page: {page}", markup=False, soft_wrap=True)
        if self.json:
            print_json(results)
        else:
            _print(asked, results)
        failed = [each for each in results if each["state"] == "fail"]
        return FAILED if failed else DONE


def _check(asked: "Sweep") -> None:
    """Every trial that is known in advance is an experiment: no run is started before all are."""
    from gesso.configs import registry

    for choice in (asked.choices() or [])[:1000]:
        registry.experiment(asked.experiment, asked.settings(choice))


def _results(asked: "Sweep", study: "optuna.Study", folder: Path) -> list[Figures]:
    """What became of every trial, the best first."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            asked.metric: trial.value if trial.value is not None else _last(trial),
            "choice": trial.params,
            "folder": str(folder / f"{trial.number:04d}"),
            "command": trial.user_attrs.get("command", ""),
        }
        for trial in study.trials
        if trial.state.name != "WAITING"
    ]
    return sorted(rows, key=lambda row: (row[asked.metric] is None, row[asked.metric]))


def _parameters(run: Path) -> int:
    """The parameters of a trial's model that multiply; 0 where it has not begun, or is not ours."""
    from gesso.models.count import parameters
    from gesso.pretrain.experiment import ExperimentError
    from gesso.pretrain.folder.claim import read_experiment

    try:
        return parameters(read_experiment(run).model)["matmul"]
    except ExperimentError:
        return 0


def _page(asked: "Sweep", results: list[Figures], folder: Path) -> Path:
    from gesso.reports.sweep.coordinates import coordinates_section, read_coordinates
    from gesso.reports.sweep.sweep import Trial, write_sweep_report

    trials = [
        Trial(
            number=row["trial"],
            state=row["state"],
            value=row[asked.metric],
            choice=row["choice"],
            folder=Path(row["folder"]),
            command=row["command"],
            parameters=_parameters(Path(row["folder"])),
        )
        for row in results
    ]
    return write_sweep_report(
        asked.name,
        trials,
        folder / "sweep.html",
        metric=asked.metric,
        extra=[coordinates_section(read_coordinates(folder))],
    )


def _last(trial: "optuna.trial.FrozenTrial") -> float | None:
    return (
        trial.intermediate_values[max(trial.intermediate_values)]
        if (trial.intermediate_values)
        else None
    )


def _print(asked: "Sweep", results: list[Figures]) -> None:
    table = Table(title=f"{asked.name}: {len(results)} trials", title_justify="left")
    for head in ("trial", asked.metric, "state", *asked.space):
        table.add_column(head, justify="left" if head in ("state",) else "right")
    for row in results:
        value = row[asked.metric]
        chosen = [row["choice"].get(name) for name in asked.space]
        table.add_row(
            str(row["trial"]),
            "" if value is None else f"{value:.4f}",
            row["state"],
            *(f"{each:.4g}" if isinstance(each, float) else str(each) for each in chosen),
        )
    output().print(table)
    if results:
        output().print(f"the best: {results[0]['command']}", markup=False, soft_wrap=True)
