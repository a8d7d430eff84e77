"""Runs the trials of a sweep, some at a time, as `gesso pretrain` commands that can be pasted.

optuna's study (SQLite in the sweep's folder) says which trials there are and how they ended; each
run folder is its own record. Killed at any time, the same command goes on.
"""

import functools
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from gesso.configs.sweep import Range, Sweep
from gesso.pretrain.exits import DONE
from gesso.records.metrics import read_metrics

POLL_SECONDS = 0.5


@dataclass(kw_only=True)
class Running:
    """A trial whose process is alive. reported: steps whose figure the study knows."""

    trial: optuna.Trial
    folder: Path
    process: subprocess.Popen[bytes]
    reported: set[int]
    pruned: bool = False


def command(sweep: Sweep, choice: dict[str, Any], folder: Path) -> list[str]:
    """The arguments of `gesso` for one trial."""
    from gesso.configs.registry import experiment

    options: list[str] = []
    for name, value in sweep.settings(choice).items():
        if isinstance(value, bool):
            # A flag exists only for what is not so anyway.
            if functools.reduce(getattr, name.split("."), experiment(sweep.experiment)) != value:
                *parents, last = name.split(".")
                options.append(_option(".".join([*parents, last if value else f"no_{last}"])))
        else:
            options += [_option(name), *_spell(value)]
    return ["pretrain", sweep.experiment, "--folder", str(folder), *options]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def open_study(sweep: Sweep, folder: Path, storage: str = "") -> optuna.Study:
    """The study of a sweep, made where there is none yet with the trials known in advance in it.

    Raises ValueError where the folder holds another sweep of that name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=3),
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    study = optuna.create_study(
        storage=storage or f"sqlite:///{folder.resolve() / 'sweep.db'}",
        study_name=sweep.name,
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=sweep.seed),
        pruner=pruners[sweep.prune](),
    )
    told = {"experiment": sweep.experiment, "space": repr(sweep.space), "fixed": repr(sweep.fixed)}
    if kept := study.user_attrs.get("sweep"):
        if kept != told:
            changed = ", ".join(name for name in told if kept.get(name) != told[name])
            raise ValueError(
                f"{folder} holds another sweep {sweep.name} ({changed} differ): choose"
                " another --folder, or delete that one"
            )
        return study
    study.set_user_attr("sweep", told)
    for choice in sweep.choices() or []:
        study.enqueue_trial(choice)
    return study


def run_sweep(
    sweep: Sweep, study: optuna.Study, folder: Path, *, parallel: int, told: Callable[[str], None]
) -> None:
    """Run what is left of a sweep, `parallel` trials at once. told: hears of starts and ends."""
    total = sweep.trials or len(sweep.choices() or [])
    left = iter(_pending(sweep, study, total))
    running: list[Running] = []
    try:
        while True:
            while len(running) < parallel and (trial := next(left, None)) is not None:
                running.append(_start(sweep, trial, folder, told))
            if not running:
                return
            time.sleep(POLL_SECONDS)
            running = [each for each in running if _alive(each, sweep, study, told)]
    finally:
        for each in running:  # an interrupt: they save, and the next call goes on with them
            each.process.send_signal(signal.SIGTERM)
        for each in running:
            each.process.wait()


def choice_of(sweep: Sweep, trial: optuna.Trial | optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What a trial chose: asks the sampler for it, or reads it where it has already."""
    made: dict[str, Any] = {}
    for name, values in sweep.space.items():
        if isinstance(values, Range):
            log = values.scale == "log"
            made[name] = trial.suggest_float(name, values.low, values.high, log=log)
        else:
            made[name] = trial.suggest_categorical(name, list(values))
    return made


def _pending(sweep: Sweep, study: optuna.Study, total: int) -> Iterator[optuna.Trial]:
    """Trials that an earlier call left running, then new ones up to `total`."""
    state = optuna.trial.TrialState
    for frozen in study.get_trials(states=(state.RUNNING,)):
        yield optuna.Trial(study, frozen._trial_id)
    while len([t for t in study.trials if t.state != state.WAITING]) < total:
        yield study.ask()


def _start(sweep: Sweep, trial: optuna.Trial, folder: Path, told: Callable[[str], None]) -> Running:
    run = folder / f"{trial.number:04d}"
    asked = command(sweep, choice_of(sweep, trial), run)
    run.parent.mkdir(parents=True, exist_ok=True)
    trial.set_user_attr("command", shlex.join(["gesso", *asked]))
    told(f"{trial.number}: {shlex.join(['gesso', *asked])}")
    with (folder / f"{run.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gesso.launch.cli", *asked],
            stdout=log,
            stderr=log,
        )
    return Running(trial=trial, folder=run, process=process, reported=set())


def _alive(each: Running, sweep: Sweep, study: optuna.Study, told: Callable[[str], None]) -> bool:
    """Hear what a run measured; whether it is still going on."""
    code = each.process.poll()
    figures = evaluations(each.folder, sweep.metric)
    for step, value in figures.items():
        if step not in each.reported:
            each.reported.add(step)
            each.trial.report(value, step)
    if code is None:
        if not each.pruned and sweep.prune != "none" and each.trial.should_prune():
            each.pruned = True
            each.process.send_signal(signal.SIGTERM)
        return True
    state = optuna.trial.TrialState
    if each.pruned:
        study.tell(each.trial, state=state.PRUNED)
        told(f"{each.trial.number}: stopped early at {max(figures)} steps")
    elif code == DONE and figures:
        value = figures[max(figures)]
        study.tell(each.trial, value)
        told(f"{each.trial.number}: {sweep.metric} {value:.4f}")
    else:
        each.trial.set_user_attr("exit", code)
        study.tell(each.trial, state=state.FAIL)
        told(f"{each.trial.number}: FAILED with exit status {code}; see {each.folder}.log")
    return False


def evaluations(folder: Path, metric: str) -> dict[int, float]:
    """{step: a figure of its held-out evaluation}; dots go inwards ("terms.mlm.mean")."""
    found = {}
    if (folder / "metrics.jsonl").exists():
        for record in read_metrics(folder):
            if record["kind"] == "evaluation":
                value: Any = record
                for part in metric.split("."):
                    value = value[part]
                found[record["step"]] = float(value)
    return found


def _spell(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value]
    return [json.dumps(value) if isinstance(value, float) else str(value)]
