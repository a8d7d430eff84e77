"""The driver behind gpu.sh: every job in its own process with a time limit, results as they come.

    bash benchmarks/gpu.sh [OUT_FOLDER] [--parts ...]       (gpu.sh --help explains)

Uses the standard library alone: what is missing on a machine fails the jobs that need it.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_jobs import PARTS, Job, jobs
from benchmarks.gpu_table import markdown

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    asked = _asked()
    found = jobs(device=asked.device, tiny=asked.tiny, packs=str(asked.packs))
    parts = [each for each in asked.parts.split(",") if each]
    if unknown := set(parts) - set(PARTS):
        print(
            f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr
        )
        return 2
    patterns = asked.jobs.split(",")
    found = [
        each
        for each in found
        if each.part in parts and any(fnmatch.fnmatch(each.name, one) for one in patterns)
    ]
    if asked.list:
        print("\n".join(f"{each.part:10} {each.name}" for each in found))
        return 0
    if not found:
        print(f"no job fits --jobs {asked.jobs!r}; --list prints them", file=sys.stderr)
        return 2
    output = asked.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"environment": environment(), "jobs": {}}
    for part in parts:
        deadline = time.monotonic() + 60 * asked.minutes
        for each in [job for job in found if job.part == part]:
            results["jobs"][f"{part}/{each.name}"] = run(each, output, deadline)
            (output / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
            (output / "gpu.md").write_text(markdown(results) + "\n")
    print((output / "gpu.md").read_text())
    failed = [name for name, each in results["jobs"].items() if each["status"] == "failed"]
    if failed:
        print(f"{len(failed)} of {len(found)} jobs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if len(failed) == len(found) else 0


def run(each: Job, output: Path, deadline: float) -> dict[str, Any]:
    """One job: {"status": "ok" | "failed" | "stopped" | "not run", "figures", "seconds", "log"}."""
    left = deadline - time.monotonic()
    result: dict[str, Any] = {"specification": each.specification, "figures": {}}
    if each.xla_flags:
        result["xla_flags"] = each.xla_flags
    if left < 20:
        return result | {"status": "not run", "log": "no time left for this part (--minutes)"}
    path = output / each.part / f"{each.name}.json"
    path.unlink(missing_ok=True)
    log = path.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{each.part}/{each.name} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    command = [sys.executable, "-P", "-m", f"benchmarks.{each.module}"]
    command += [json.dumps(each.specification), "--output", str(path)]
    with log.open("w") as file:
        try:
            code = subprocess.run(
                command,
                env=surroundings(each),
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=min(each.seconds, left),
            ).returncode
            status = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "stopped"
    result |= {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if path.exists():
        result["figures"] = json.loads(path.read_text())
    if status != "ok":
        result["log"] = "\n".join(log.read_text(errors="replace").splitlines()[-12:])[-1500:]
    if "skipped" in result["figures"]:
        result |= {"status": "skipped", "log": result["figures"]["skipped"]}
    shown = result["figures"].get("tokens_per_second", "")
    print(f"  {result['status']} in {result['seconds']} s {shown}", file=sys.stderr, flush=True)
    return result


def surroundings(each: Job) -> dict[str, str]:
    """The environment of a job's process."""
    ours = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu" if each.specification["device"] == "cpu" else "cuda",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {each.xla_flags}".strip(),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**os.environ, **ours, **each.environment}


def environment() -> dict[str, Any]:
    """What a reader needs to place the figures: versions, the card, the commit, the date."""
    versions = {"python": sys.version.split()[0]}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "triton", "nvidia-cudnn-cu13"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    fields = "name,memory.total,driver_version"
    card = _said(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    return {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
        "card": card or "no NVIDIA GPU",
        "commit": _said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown",
        "cpus": os.cpu_count(),
    }


def _said(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=Path("gpu-results"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--jobs", default="*")
    parser.add_argument("--packs", type=Path, default=_packs())
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--minutes", type=float, default=9.0, help="for each part")
    parser.add_argument("--list", action="store_true", help="print the jobs and stop")
    asked = parser.parse_args()
    asked.packs = asked.packs.resolve()
    return asked


def _packs() -> Path:
    beside = [ROOT / "shared" / "packs", ROOT.parent / "shared" / "packs"]
    return next((folder for folder in beside if folder.is_dir()), beside[-1])


if __name__ == "__main__":
    sys.exit(main())
