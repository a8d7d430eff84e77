"""`gesso evaluate RUN --harness TASK`: tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gesso.launch.commands.evaluate.run import needs, open_placed
from gesso.launch.console import Figures, Refused, existing, output


def harness(
    folder: Path, tasks: Sequence[str], *, path: str, step: int | None, limit: int, shots: int
) -> Figures:
    """evaluation.harness.harness.evaluate of a run's checkpoint, and "step"."""
    needs("lm_eval")
    if limit < 0 or shots < -1:
        raise Refused("--limit and --shots must be 0 or more")
    if path:
        existing(path, what="folder of tasks")
    from gesso.evaluation.harness.harness import evaluate, known_tasks

    known_tasks(tasks, path)
    opened = open_placed(folder, step=step)
    run = opened.run
    found = evaluate(
        run.model,
        opened.params,
        run.tokenizer,
        tasks,
        path,
        limit,
        objective=opened.objective,
        shots=None if shots < 0 else shots,
        compute=opened.compute,
    )
    return found | {"step": run.step}


def show_harness(found: Figures, *, title: str, console: Console | None = None) -> None:
    """A row per task and metric; groups of tasks below."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for head in ("task", "metric"):
        table.add_column(head, style="cyan", no_wrap=True)
    for head in ("value", "standard error", "examples"):
        table.add_column(head, justify="right", no_wrap=True)
    for part in ("tasks", "groups"):
        for name, figures in found[part].items():
            counts = found["counts"].get(name, {})
            for metric, value in figures.items():
                if "_stderr," in metric or value is None:
                    continue
                error = figures.get(metric.replace(",", "_stderr,", 1))
                table.add_row(
                    name,
                    metric.removesuffix(",none"),
                    f"{value:.4f}",
                    "" if error is None else f"{error:.4f}",
                    f"{counts['effective']:,}" if "effective" in counts else "",
                )
        table.add_section()
    (console or output()).print(table)
