"""`python -m benchmarks.downstream --data FOLDER`: what fine-tuning gives small models of ours,
beside what needs none, into docs/downstream_table.md.

A decoder of a million parameters is pretrained on the text of the training splits, then fine-tuned
on each dataset, beside the same decoder from its first parameters; the commonest label and TF-IDF
stand beside every score. A second part takes a model of film reviews to speeches.

    python -m benchmarks.downstream --data datasets                 everything
    python -m benchmarks.downstream --data datasets --only sentence_polarity adaptation
    python -m benchmarks.downstream --data datasets --size tiny     a try of the script, printed

--data holds the datasets as they were downloaded; benchmarks/downstream/sources.py lists the files.
Stopped, the same command goes on: rows that are finished are kept in --folder, and so is every run.
Needs pip install 'gesso[bench]' (scikit-learn).
"""

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, machine, versions
from benchmarks.downstream.adaptation import adaptation, drawn
from benchmarks.downstream.classified import CLASSIFIED, classified
from benchmarks.downstream.commands import CommandFailed, Commands, seconds
from benchmarks.downstream.instructed import INSTRUCTED, instructed
from benchmarks.downstream.models import Sizes, pretrained
from benchmarks.downstream.page import markdown
from benchmarks.downstream.sources import written
from benchmarks.page import write_section

PAGE = ROOT / "docs" / "downstream_table.md"
RESULTS = ROOT / "benchmarks" / "results" / "downstream.json"
PICTURE = ROOT / "docs" / "adaptation.png"
ROWS = ("pretraining", *CLASSIFIED, *INSTRUCTED, "adaptation")
SIZES = {
    "table": Sizes(),
    "tiny": Sizes(
        vocab=300, layers=1, embed=16, length=128, batch=4, pretraining_steps=4, adaptation_steps=2
    ),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.downstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the datasets")
    parser.add_argument("--folder", type=Path, default=Path("runs/downstream"))
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--size", choices=list(SIZES), default="table")
    asked = parser.parse_args(arguments)
    if not asked.data.is_dir():
        parser.error(f"there is no folder {asked.data}")
    if find_spec("sklearn") is None:
        parser.error("scikit-learn is not installed: pip install 'gesso[bench]'")
    sizes = SIZES[asked.size]
    folder = asked.folder / asked.size
    try:
        rows = made(asked.data, folder, sizes, only=tuple(asked.only))
    except (ValueError, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    document = {
        "command": "python -m benchmarks.downstream --data FOLDER",
        "rows": {name: rows[name] for name in ROWS if name in rows},
    }
    if asked.size != "table":
        print(markdown(document))
        return 0
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    if "adaptation" in rows:
        drawn(rows["adaptation"], PICTURE)
    write_section(PAGE, "downstream", markdown(document))
    print(f"wrote {PAGE}", file=sys.stderr)
    return 0


def made(data: Path, folder: Path, sizes: Sizes, *, only: tuple[str, ...]) -> dict[str, Any]:
    """{row: figures} of all rows that are finished in `folder`, those of `only` made first where
    they are not. Every row has its "minutes", "commands", "date" and "machine".

    Raises ValueError for datasets that are not there, and for rows that were made of another size;
    CommandFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = json.dumps(repr(sizes))
    kept_for = folder / "sizes.json"
    if kept_for.exists() and kept_for.read_text() != asked:
        raise ValueError(f"{folder} holds runs of {kept_for.read_text()}, not {asked}; remove it")
    if not (folder / "files" / "counts.json").exists():
        counts = written(data, folder / "files")
        (folder / "files" / "counts.json").write_text(json.dumps(counts))
    kept_for.write_text(asked)
    wanted = [name for name in ROWS if name in only or name == "pretraining"]
    with progress([name for name in wanted if not _row(folder, name).exists()]) as told:
        for name in wanted:
            finished(_row(folder, name), functools.partial(_make, name, folder, sizes, told))
            told(f"{name} is there", done=name)
    return {name: json.loads(_row(folder, name).read_text()) for name in _finished(folder)}


def finished(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row that a file holds, made first where it is not there; written whole or not at all."""
    if path.exists():
        return json.loads(path.read_text())
    began = time.perf_counter()
    row = make()
    # A row that was stopped and gone on with has runs that were there before.
    row |= {
        "minutes": max(round((time.perf_counter() - began) / 60, 1), row["run_minutes"]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(row, indent=1) + "\n")
    half.replace(path)
    return row


def _make(name: str, folder: Path, sizes: Sizes, told: Any) -> dict[str, Any]:
    commands = Commands(log=folder / "log.txt")
    told(name)
    if name == "pretraining":
        row = pretrained(commands, folder, folder / "files", sizes)
    elif name in CLASSIFIED:
        row = classified(name, CLASSIFIED[name], commands, folder, sizes, told)
    elif name in INSTRUCTED:
        row = instructed(name, commands, folder, sizes, told)
    else:
        row = adaptation(commands, folder, sizes, told)
    spent = sum(map(seconds, commands.runs)) / 60
    return {**row, "run_minutes": round(spent, 1), "commands": commands.said}


def _row(folder: Path, name: str) -> Path:
    return folder / "rows" / f"{name}.json"


def _finished(folder: Path) -> list[str]:
    return [name for name in ROWS if _row(folder, name).exists()]


@contextlib.contextmanager
def progress(rows: list[str]) -> Iterator[Any]:
    """`told(what, done=row)`: a bar over the rows that are to be made, else lines, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(rows))

        def told(what: str, *, done: str = "") -> None:
            bar.update(task, description=what, advance=done in rows)
            if not console.is_terminal:
                print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

        yield told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
