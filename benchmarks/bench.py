"""The driver behind `make bench`: every program of figures.py, one after another, to a table.

    python -m benchmarks [--quick] [--only loader build] [--page docs/performance.md]

A program that fails is reported as failed, with its last lines. --quick takes minutes, on smaller
inputs, and prints the table instead of writing it down.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import PROGRAMS, Program
from benchmarks.page import table, write_section

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("jax", "flax", "optax", "numpy", "grain", "tokenizers", "tiktoken", "sentencepiece")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ratios on this machine, to docs/performance.md.")
    parser.add_argument("--quick", action="store_true", help="smaller inputs; print, do not write")
    parser.add_argument("--only", nargs="+", default=[], help="these programs alone")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "cpu.json"
    )
    asked = parser.parse_args(arguments)
    known = {each.module: each for each in PROGRAMS}
    if unknown := set(asked.only) - known.keys():
        parser.error(f"no program {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in asked.only] or list(PROGRAMS)
    # Programs that are not run again keep their results.
    results = {} if asked.quick else _earlier(asked.results)
    with progress(len(chosen)) as said:
        for each in chosen:
            said(each.module)
            results[each.module] = run(each, asked.quick)
            if not asked.quick:
                asked.results.parent.mkdir(parents=True, exist_ok=True)
                asked.results.write_text(json.dumps(results, indent=1) + "\n")
                write_section(asked.page, "cpu", markdown(results))
    if asked.quick:
        print(markdown(results))
    else:
        print(f"wrote {asked.page}", file=sys.stderr)
    failed = [name for name, each in results.items() if "failed" in each]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(program: Program, quick: bool) -> dict[str, Any]:
    """One program's process: {"document" | "failed", "command", "seconds", "date", ...}."""
    arguments = program.quick if quick else program.arguments
    command = ["-m", f"benchmarks.{program.module}", *arguments]
    result: dict[str, Any] = {
        "command": " ".join(["python", *command]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
    }
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={"JAX_PLATFORMS": "cpu", **os.environ},
            capture_output=True,
            text=True,
            timeout=program.seconds,
        )
        output, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired:
        output, errors, code = "", f"stopped after {program.seconds} s", 1
    result["seconds"] = round(time.perf_counter() - start, 1)
    try:
        result["document"] = json.loads(output)
    except json.JSONDecodeError:
        code = code or 1
    if code:
        said = (errors.strip() or output.strip() or f"exit status {code}").splitlines()
        result["failed"] = "\n".join(said[-8:])[-800:]
    return result


def markdown(results: Mapping[str, Any]) -> str:
    """The figures with a definition each, then what was run on what."""
    rows = []
    for program in PROGRAMS:
        result = results.get(program.module)
        if result is None:
            continue
        for figure in program.figures:
            value = figure.read(result.get("document"))
            relation = "at least" if figure.better == "more" else "at most"
            target = "" if figure.target is None else f"{relation} {figure.target:g}"
            if value is None:
                rows.append([figure.name, "no figure", target, "failed", figure.definition])
                continue
            met = {True: "met", False: "NOT MET", None: ""}[figure.met(value)]
            shown = f"{value:.3g} {figure.unit}".strip()
            rows.append([figure.name, shown, target, met, figure.definition])
    runs = [
        [
            f"`{each['command']}`",
            "failed" if "failed" in each else f"{each['seconds']:.0f} s",
            each["date"],
            each["machine"],
            ", ".join(f"{name} {version}" for name, version in each["versions"].items()),
        ]
        for each in results.values()
    ]
    failed = [
        f"`{each['command']}` failed; its last lines:\n\n```\n{each['failed']}\n```"
        for each in results.values()
        if "failed" in each
    ]
    return "\n\n".join(
        [
            table(["figure", "value", "target", "", "definition"], rows),
            table(["command", "took", "date", "machine", "versions"], runs),
            *failed,
        ]
    )


def machine() -> str:
    """The processor, its cores, and how busy they were."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    busy = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{model}, {os.cpu_count()} cores, load {busy} before"


def versions() -> dict[str, str]:
    """Python and the libraries whose speed is in the figures."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def progress(total: int) -> Iterator[Any]:
    """A function that announces the next program: a bar on a terminal, else a line on stderr."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        count = 0

        def said(name: str) -> None:
            nonlocal count
            count += 1
            bar.update(task, description=f"{count}/{total} {name}", completed=count - 1)
            if not console.is_terminal:
                print(f"{count}/{total} {name} ...", file=sys.stderr, flush=True)

        yield said


def _earlier(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
