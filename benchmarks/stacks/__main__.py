"""`python -m benchmarks.stacks`: every family through every client, into docs/stacks.md.

A small checkpoint of each family becomes a run (`gesso import`), the run goes out in every format
(`gesso export`), and each client loads its format in a Python of its own; outputs are compared with
the checkpoint's. So does one published model, all-MiniLM-L6-v2, whose embeddings are held against
its own runtime's.

    python -m benchmarks.stacks --make-venvs           # clients' environments first (gigabytes)
    python -m benchmarks.stacks --families gpt2 bert   # these rows; the others stay as they are
    python -m benchmarks.stacks --clients llama.cpp    # printed only: the page has whole rows

A client without a Python is not run, and the page says so. docs/stacks.md has the variables that
name Pythons which have them already.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import machine
from benchmarks.page import write_section
from benchmarks.stacks import adapters, minilm, venvs
from benchmarks.stacks.case import ROOT, Case, Refusal, exports_of, run_of
from benchmarks.stacks.checkpoints import CONFIGS, Checkpoint, checkpoint
from benchmarks.stacks.figure import Figure
from benchmarks.stacks.measure import CLIENTS, measured
from benchmarks.stacks.page import failed, markdown
from gesso.export import FolderError

PAGE = ROOT / "docs" / "stacks.md"
RESULTS = ROOT / "benchmarks" / "results" / "stacks.json"
FAMILIES = (*CONFIGS, minilm.NAME)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--make-venvs", action="store_true", help="make the environments that are missing, with pip"
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, metavar="NAME", default=None)
    parser.add_argument("--clients", nargs="+", choices=list(CLIENTS), metavar="NAME", default=None)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    try:
        _pythons(make=asked.make_venvs)
    except ValueError as error:
        parser.error(str(error))
    clients, document = asked.clients or list(CLIENTS), {"rows": {}}
    if asked.families and not asked.clients and asked.results.is_file():
        document = json.loads(asked.results.read_text())
    measured_now = {}
    for name in asked.families or FAMILIES:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            row = _row(name, Path(place), clients)
        row |= {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine().partition(", load")[0],
            "seconds": round(time.perf_counter() - start, 1),
        }
        measured_now[name] = row
        document["rows"] |= {name: row}
        if not asked.clients:
            _write(document, asked.results, asked.page)
    return 1 if any(failed(row) for row in measured_now.values()) else 0


def _write(document: dict[str, Any], results: Path, page: Path) -> None:
    """What there is so far: a run that is stopped keeps the rows it measured."""
    ordered = {name: document["rows"][name] for name in FAMILIES if name in document["rows"]}
    results.write_text(json.dumps({"rows": ordered}, indent=1) + "\n")
    write_section(page, "stacks", markdown({"rows": ordered}))


def _row(name: str, place: Path, clients: list[str]) -> dict[str, Any]:
    """{"clients": {client: a figure}} of one checkpoint, and MiniLM's "embeddings"."""
    if name == minilm.NAME:
        return _published(place, clients)
    c = checkpoint(name)
    try:
        return {"clients": _figures(c, run_of(c, place), clients)}
    except (Refusal, RuntimeError) as error:  # no run, so nothing to export
        why = str(error)[-400:]
        print(f"{name:28} {why}", flush=True)
        none = dataclasses.asdict(Figure(outcome="failed", why=why))
        return {"clients": dict.fromkeys(clients, none)}


def _figures(c: Checkpoint, run: Path, clients: list[str]) -> dict[str, Any]:
    """{client: a figure} of one run, printed as they come."""
    formats = {CLIENTS[client].format for client in clients}
    exports = exports_of(run, (formats | {"hf"}) - {"peft"})
    if "peft" in formats:
        exports["peft"] = _adapter(c, run, exports["hf"])
    case, found = Case(checkpoint=c, run=run, exports=exports), {}
    for client in clients:
        figure = measured(client, case)
        shown = f"{figure.apart:.1e}" if figure.outcome == "measured" else figure.outcome
        print(f"{c.name:28} {client:16} {shown:10} {figure.why or figure.of}", flush=True)
        found[client] = dataclasses.asdict(figure)
    return found


def _adapter(c: Checkpoint, run: Path, base: Path | Exception) -> Path | Exception:
    if isinstance(base, Exception):
        return base
    to = run.with_name("export-peft")
    try:
        adapters.exported(c, run, base, to)
    except FolderError as error:
        return Refusal(str(error))
    except (Refusal, RuntimeError) as error:
        return error
    return to


def _published(place: Path, clients: list[str]) -> dict[str, Any]:
    """MiniLM's row: its figures in the clients, and its embeddings beside its own runtime's."""
    found: dict[str, Any] = {"clients": {}}
    try:
        c, run = minilm.imported(place)
        found["clients"] = _figures(c, run, clients)
        found["embeddings"] = minilm.beside_its_own(c) | {"outcome": "measured"}
    except venvs.NoClient as error:
        found["embeddings"] = {"outcome": "not run", "why": str(error)}
    except (RuntimeError, Refusal, subprocess.SubprocessError) as error:
        found["embeddings"] = {"outcome": "failed", "why": str(error)[-400:]}
    print(json.dumps(found["embeddings"]), flush=True)
    return found


def _pythons(*, make: bool) -> None:
    """Say which Python each client has, and make those that are missing where asked."""
    for name in venvs.CLIENTS:
        try:
            print(f"{name:16} {venvs.python_of(name)}", flush=True)
        except venvs.NoClient as error:
            print(f"{name:16} {'making one with pip' if make else error}", flush=True)
            if make:
                venvs.make(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
