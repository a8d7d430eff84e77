"""Every experiment on the slices it could be trained on, compiled without them: docs/pods.md.

    pip install -e .[tpu]                            (an environment of its own is best)
    python -m benchmarks.pods                      large models on up to 256 chips, and two slices
    python -m benchmarks.pods --table recommended  for each experiment the smallest slice that does
    python -m benchmarks.pods --rows 'gpt-j-6b*' --again
    python -m benchmarks.pods --table recommended --compile never      formulas alone, in a minute

For each row the fastest mesh, remat policy and number of microbatches that fits by formulas is
compiled by libtpu's own compiler; where that refuses it, the next that needs less memory. Every
program is compiled in a process of its own. A row is written when it is done, and found again by
the next call unless the experiment changed: stop it when you like.
"""

import argparse
import fnmatch
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.page import write_section
from benchmarks.pods_rows import PODS, Row, recommended, settings_hash
from gesso.configs.registry import experiment as named
from gesso.partitioning.config import MeshConfig
from gesso.planning.finalists import TRIES, smaller
from gesso.planning.plan import estimate
from gesso.planning.search import Candidate, search
from gesso.planning.topology import topology
from gesso.pretrain.experiment import Experiment

ROOT = Path(__file__).parent
RESULTS = {name: ROOT / "results" / f"{name}.json" for name in ("pods", "recommended")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=sorted(RESULTS), default="pods")
    parser.add_argument("--rows", default="*", help="pattern over the names --list prints")
    parser.add_argument("--list", action="store_true", help="print the rows, and stop")
    parser.add_argument("--again", action="store_true", help="also the rows that are there")
    parser.add_argument("--compile", choices=("yes", "never"), default="yes")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per program")
    parser.add_argument("--one", default="", help="compile this record here, and print its plan")
    parser.add_argument("--page", default="docs/pods.md")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_compile_here(json.loads(asked.one))))
        return
    every = list(PODS) if asked.table == "pods" else recommended()
    rows = [each for each in every if fnmatch.fnmatch(each.name, asked.rows)]
    if asked.list:
        print("\n".join(each.name for each in rows))
        return
    _run(rows, every, asked)


def _run(rows: list[Row], every: list[Row], asked: Any) -> None:
    """Make `rows`, and the page of `every` row that was made."""
    from benchmarks.pods_page import markdown

    output = RESULTS[asked.table]
    found = json.loads(output.read_text()) if output.exists() else {}
    for i, row in enumerate(rows):
        told = f"{i + 1} of {len(rows)}: {row.name}"
        if not asked.again and _stands(found.get(row.name), row):
            print(f"{told} stands", file=sys.stderr, flush=True)
            made = found[row.name] | _estimated(row, found[row.name])
        else:
            made = _best(row, compiles=asked.compile == "yes", timeout=asked.timeout, told=told)
        found = json.loads(output.read_text()) if output.exists() else {}
        found[row.name] = made
        _write(found, output)
    known = {row.name for row in every}
    listed = {row.name: found[row.name] for row in every if row.name in found}
    if gone := found.keys() - known:
        print(f"no row any more: {', '.join(sorted(gone))}", file=sys.stderr)
        # Those that were compiled took long, and may be rows again.
        _write(
            {name: found[name] for name in found if name in known or found[name]["compiled"]},
            output,
        )
    write_section(Path(asked.page), asked.table, markdown(asked.table, listed))


def _write(found: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(output)


def _stands(found: dict[str, Any] | None, row: Row) -> bool:
    """Formulas are made again, as they may have changed: they take no time."""
    if not found or found["settings"] != settings_hash(named(row.experiment)):
        return False
    return bool(found["fits"] and found["compiled"])


def _estimated(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """What the formulas of today say of a row that stands."""
    settings = {"layout": record["layout"], "microbatches": record["microbatches"]}
    settings["mesh"] = MeshConfig(**({"data": 1} | record["mesh"]))
    if record["remat"]:
        settings["model.remat"] = record["remat"]
    where = topology(row.topology, slices=row.slices)
    found = estimate(named(row.experiment, row.overrides | settings), where)
    return {
        "estimated_bytes": found["memory"]["total"],
        "estimated_seconds": found["time"]["middle"],
    }


def _best(row: Row, *, compiles: bool, timeout: float, told: str) -> dict[str, Any]:
    """The record of a row: its first candidate that the compiler takes."""
    where = topology(row.topology, slices=row.slices)
    e = named(row.experiment, row.overrides)
    record: dict[str, Any] = {
        "experiment": row.experiment,
        "topology": row.topology,
        "slices": row.slices,
        "chips": where.chips,
        "overrides": row.overrides,
        "settings": settings_hash(named(row.experiment)),
        "refused": [],
    }
    ranked, _ = search(e, where)
    for each in itertools.islice(smaller(ranked, below=math.inf), TRIES):
        print(f"{told}: {each.name}", file=sys.stderr, flush=True)
        made = _compiled(row, each, timeout) if compiles else each.estimate
        if made.get("fits"):
            return record | _short(each, made, compiled=compiles)
        why = made.get("failed") or made.get("refused") or "more than the chip's memory"
        print(f"  refused: {why[-200:]}", file=sys.stderr, flush=True)
        record["refused"].append({"options": each.name, "why": why[:300]})
    return record | {"fits": False, "compiled": compiles, "options": ""}


def _compiled(row: Row, each: Candidate, timeout: float) -> dict[str, Any]:
    from gesso.pretrain.experiment import to_json

    asked = {
        "experiment": to_json(each.experiment),
        "topology": row.topology,
        "slices": row.slices,
    }
    command = [sys.executable, "-m", "benchmarks.pods", "--one", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"fits": False, "failed": f"still compiling after {timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if "SIGSEGV" in done.stderr or done.returncode < 0:
        return {"fits": False, "failed": "the compiler crashed (a signal, not a refusal)"}
    raise RuntimeError(f"{row.name} with {each.name}: {' '.join(done.stderr.split())[-600:]}")


def _compile_here(asked: dict[str, Any]) -> dict[str, Any]:
    os.environ |= {"JAX_PLATFORMS": "cpu"}
    from importlib.metadata import version

    from gesso.planning.cache import keep_plan
    from gesso.planning.plan import plan
    from gesso.pretrain.experiment import from_json

    e, where = from_json(asked["experiment"]), topology(asked["topology"], slices=asked["slices"])

    def compiled() -> dict[str, Any]:
        began = time.process_time()
        made = plan(e, where)
        made["seconds"]["cpu"] = round(time.process_time() - began, 1)
        return made | {"libtpu": version("libtpu")}

    made = keep_plan(e, where, compiled)
    return {"libtpu": version("libtpu")} | made


def _short(each: Candidate, made: dict[str, Any], *, compiled: bool) -> dict[str, Any]:
    """What a page shows of a plan."""
    e: Experiment = each.experiment
    memory = made["memory"]
    kept = ("parameters", "optimizer", "batch", "estimates", "temporary", "total", "limit")
    return {
        "fits": True,
        "compiled": compiled,
        "options": each.name,
        "mesh": made["mesh"],
        "layout": e.layout,
        "remat": getattr(e.model, "remat", ""),
        "microbatches": e.microbatches,
        "batch": e.batch,
        "length": e.length,
        "steps": e.steps,
        "bytes": {name: memory[name] for name in kept},
        "estimated_bytes": each.estimate["memory"]["total"],
        "estimated_seconds": each.seconds,
        "collectives": made.get("collectives", []),
        "time": made["time"],
        "seconds": made.get("seconds", {}),
        "versions": {name: made[name] for name in ("jax", "libtpu") if name in made},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
