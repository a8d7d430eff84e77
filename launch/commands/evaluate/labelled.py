"""`gesso evaluate RUN` of a run on labelled examples: its held-out scores beside a baseline."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gesso.launch.commands.evaluate.run import place
from gesso.launch.commands.evaluate.stores import store_for
from gesso.launch.console import Figures, Refused, narration, output
from gesso.pretrain.folder.claim import read_experiment


def is_task(folder: Path) -> bool:
    """Whether a run was trained on labelled examples. Raises ValueError for a folder that is no
    run."""
    from gesso.objectives.config import TASKS

    return read_experiment(folder).objective.kind in TASKS


def figures(
    folder: Path, *, step: int | None = None, store: str = "", rows: int = 0, batch: int = 8
) -> Figures:
    """What evaluation.labelled.tasks.evaluate_task says of a run, with "step" and "predictions": a
    file in RUN/evaluations with "examples", "logits" and "targets", for whoever looks further.

    store: another task store, of the same task and tokenizer. Raises Refused for one that is not.
    """
    import numpy as np

    from gesso.data.labelled.store import TaskStore
    from gesso.evaluation.labelled.tasks import evaluate_task
    from gesso.objectives.kinds import build
    from gesso.pretrain.open import open_run
    from gesso.records.evaluations import FOLDER

    run = open_run(folder, step=step)
    e = run.experiment
    opened = store_for(run, folder, store)
    if not isinstance(opened, TaskStore):
        raise Refused(f"{store} holds no labelled examples; gesso task build makes a store of them")
    objective = build(e.objective, tokenizer=run.tokenizer, model=e.model, store=opened)
    own = run.store() if store else opened
    if isinstance(own, TaskStore) and opened.labels != own.labels:
        raise Refused(
            f"{store} has labels {', '.join(opened.labels)}, and {folder} was trained on"
            f" {', '.join(own.labels)}; build it with --labels {' '.join(own.labels)}"
        )
    on_devices = place(run, folder)
    found, said = evaluate_task(
        run.model,
        objective,
        on_devices.params,
        opened,
        length=e.length,
        batch=batch,
        rows=rows,
        compute=on_devices.compute,
    )
    found |= {"step": run.step, "of": opened.name, "predictions": ""}
    if len(said.logits):
        path = folder / FOLDER / f"task-{opened.name}-{run.step}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, examples=said.examples, logits=said.logits, targets=said.targets)
        found["predictions"] = str(path)
    return found


def show(found: Figures, *, title: str, console: Console | None = None) -> None:
    """A row per score beside the baseline's, and the calibration."""
    console, task = console or output(), found["task"]
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column(found["of"], style="cyan", no_wrap=True)
    for heading in ("held out", "95% interval", "baseline"):
        table.add_column(heading, justify="right", no_wrap=True)
    ends = task["interval"]
    for name, value in task["scores"].items():
        known = ends["of"] == name and ends["low"] == ends["low"]
        interval = f"{ends['low']:.4f} to {ends['high']:.4f}" if known else ""
        baseline = f"{task['floor'][name]:.4f}"
        table.add_row(name.replace("_", " "), f"{value:.4f}", interval, baseline)
    console.print(table)
    said = [f"{task['examples']:,} examples, loss {found['loss']:.4f}"]
    if "unanswered" in task:
        said.append(f"{task['unanswered']:,} left without an answer")
    if "calibration" in task:
        sure, null = task["calibration"], task["calibration"]["null"]
        band = f"{null['low']:.3f} to {null['high']:.3f} if calibrated"
        said.append(f"ECE {sure['ece']:.3f} ({band})")
    if "temperature" in task:
        degrees = ", ".join(f"{each:.2f}" for each in task["temperature"]["values"])
        after = task["temperature"]["ece"]
        said.append(f"{after:.3f} at temperatures {degrees}, each fitted on the other half")
    console.print("; ".join(said), markup=False, highlight=False)
    if found["predictions"]:
        narration().print(f"logits of all examples: {found['predictions']}", style="dim")
