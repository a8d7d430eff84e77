"""`gesso doctor`: would a run work on this machine? Each check says what it saw and what to do."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from gesso.launch.console import output, print_json, size
from gesso.pretrain.exits import DONE, REFUSED

# (package, versions, package, versions, what happens): pairs pip accepts and we know to break.
BAD_PAIRS = (("flax", "==0.12.8", "jax", ">=0.11.1", "flax 0.12.8 fails to import on that jax"),)
OPTIONAL = {
    "libtpu": "TPUs (pip install -e .[tpu])",
    "wandb": "Weights & Biases logging (pip install -e .[wandb])",
    "gcsfs": "gs:// paths (pip install -e .[remote])",
    "s3fs": "s3:// paths (pip install -e .[remote])",
    "grain": "the loader benchmark (pip install -e .[bench])",
}
MINIMUM_DISK, SCARCE_DISK = 1e9, 20e9  # bytes free: the quickstart, and some checkpoints
SCARCE_MEMORY = 4e9  # bytes available: compiling on 2 cores takes about 2
DEVICE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check. verdict: "fail" means that a run would not work; detail ends with what to do."""

    check: str
    """Name of the check."""
    verdict: Literal["ok", "note", "warning", "fail"]
    """Result; "fail" means that a run would not work."""
    detail: str
    """What was seen; it ends with what to do."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this machine: versions, devices, disk, memory, clock, caches.

    Touches nothing that matters (a few bytes are written to the cache folder and removed). Ends
    with status 0 when a run would work and 2 when it would not, after saying what to do.

    Example:
      gesso doctor
      gesso doctor --json
    """

    json: bool = False
    """Print the findings as JSON."""

    def run(self) -> int:
        findings = examine()
        healthy = all(each.verdict != "fail" for each in findings)
        if self.json:
            print_json({"healthy": healthy, "findings": findings})
        else:
            _show(findings)
        return DONE if healthy else REFUSED


def examine() -> list[Finding]:
    """All checks, in the order a reader wants them. A check that breaks is itself a finding."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check()
        except Exception as error:
            findings.append(
                Finding(
                    check=check.__name__,
                    verdict="fail",
                    detail=f"the check itself failed: {type(error).__name__}: {error}",
                )
            )
    return findings


def python() -> Iterator[Finding]:
    """Is this Python one we support?"""
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    detail = f"{platform.python_version()} at {sys.executable}"
    if not good:
        detail += "; use Python 3.11 or 3.12 (PYTHON=python3.12 make install)"
    yield Finding(check="python", verdict="ok" if good else "fail", detail=detail)


def packages() -> Iterator[Finding]:
    """Is every package Gesso needs here, within its bounds, and in no known bad pair?"""
    installed = {}
    for line in importlib.metadata.requires("gesso") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, bounds = requirement.name, requirement.specifier
        try:
            found = installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            detail = f"not installed; Gesso needs {bounds}: make install"
            yield Finding(check=name, verdict="fail", detail=detail)
            continue
        if not bounds.contains(found, prereleases=True):
            detail = f"{found} is outside {bounds}: make install brings the tested version"
            yield Finding(check=name, verdict="fail", detail=detail)
    yield from bad_pairs(installed)
    shown = (f"{name} {installed[name]}" for name in ("jax", "flax", "optax", "orbax-checkpoint"))
    yield Finding(check="packages", verdict="ok", detail=", ".join(shown))


def bad_pairs(installed: dict[str, str]) -> Iterator[Finding]:
    """Known incompatible pairs among {package: version}."""
    for one, one_versions, other, other_versions, what in BAD_PAIRS:
        if one not in installed or other not in installed:
            continue
        if _within(installed[one], one_versions) and _within(installed[other], other_versions):
            yield Finding(
                check=f"{one} with {other}",
                verdict="fail",
                detail=f"{installed[one]} with {installed[other]}: {what}; make install brings"
                " versions that fit each other",
            )


def devices() -> Iterator[Finding]:
    """Which devices does JAX see, and does a small program run on them?

    Asked of another process, because a TPU that someone else holds can wait for ever.
    """
    program = (
        "import json, jax, jax.numpy as jnp\n"
        "total = float(jnp.ones((128, 128)).sum())\n"
        "first = jax.devices()[0]\n"
        "memory = (first.memory_stats() or {}).get('bytes_limit')\n"
        "print(json.dumps([first.platform, first.device_kind, jax.device_count(), memory, total]))"
    )
    try:
        asked = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEVICE_SECONDS
        )
    except subprocess.TimeoutExpired:
        detail = (
            f"JAX found no device within {DEVICE_SECONDS} s; on a TPU another process may hold it"
            " (end it), on a pod every worker has to start"
        )
        yield Finding(check="devices", verdict="fail", detail=detail)
        return
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"JAX does not start: {last}; JAX_PLATFORMS=cpu tries without accelerators"
        yield Finding(check="devices", verdict="fail", detail=detail)
        return
    platform_name, kind, count, memory, total = json.loads(asked.stdout.splitlines()[-1])
    detail = f"{count} x {kind} ({platform_name})"
    if memory:
        detail += f", {size(memory)} each"
    verdict: Literal["ok", "note", "fail"] = "ok" if total == 128 * 128 else "fail"
    if verdict == "fail":
        detail += f"; a sum of 16384 ones gave {total}: do not trust this device"
    elif platform_name == "cpu" and (forgotten := _unused_accelerator()):
        verdict, detail = "note", f"{detail}; {forgotten}"
    yield Finding(check="devices", verdict=verdict, detail=detail)


def _unused_accelerator() -> str:
    if Path("/dev/nvidia0").exists():
        return "there is an NVIDIA card that JAX does not use: pip install -e .[cuda]"
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "there may be a TPU that JAX does not use: pip install -e .[tpu]"
    return ""


def disk() -> Iterator[Finding]:
    """Is there room where runs and caches go?"""
    for name, folder in (("disk for runs", Path.cwd()), ("disk for caches", cache_folder())):
        there = folder
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
        detail = f"{size(free)} free at {folder}"
        verdict: Literal["ok", "warning", "fail"] = "ok"
        if free < MINIMUM_DISK:
            verdict, detail = "fail", f"{detail}: free some, even the quickstart needs 1 GB"
        elif free < SCARCE_DISK:
            verdict = "warning"
            detail += ": enough to try, little for checkpoints (12 bytes per parameter each)"
        yield Finding(check=name, verdict=verdict, detail=detail)


def memory() -> Iterator[Finding]:
    """Is there memory to compile in, and how many cores are ours?"""
    import psutil

    available = psutil.virtual_memory().available
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{size(available)} available, {cores} cores"
    if available < SCARCE_MEMORY:
        detail += ": compiling a large model may be killed; close other programs"
        yield Finding(check="memory", verdict="warning", detail=detail)
    else:
        yield Finding(check="memory", verdict="ok", detail=detail)


def clock() -> Iterator[Finding]:
    """Is the clock plausible? Checkpoints by time, and TLS, go wrong where it is not."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parents[1].rglob("*.py"))
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.time() < newest - 60:
        detail = f"{now} is before the checkout's own files were written: set the clock"
        yield Finding(check="clock", verdict="fail", detail=detail)
    else:
        yield Finding(check="clock", verdict="ok", detail=now)


def cache() -> Iterator[Finding]:
    """Can we write to the cache, and lock a file there?"""
    import fcntl

    folder = cache_folder()
    probe = folder / f"doctor.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("w") as file:
            file.write("x")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        probe.unlink()
    except OSError as error:
        detail = f"{folder}: {error.strerror}; set GESSO_CACHE to a folder of yours on a local disk"
        yield Finding(check="cache", verdict="fail", detail=detail)
    else:
        yield Finding(check="cache", verdict="ok", detail=f"{folder} can be written and locked")


def optional() -> Iterator[Finding]:
    """Which optional packages are here?"""
    for name, what in OPTIONAL.items():
        if importlib.util.find_spec(name):
            detail = importlib.metadata.version(name)
        else:
            detail = f"not installed; only needed for {what}"
        yield Finding(check=name, verdict="note", detail=detail)


def cache_folder() -> Path:
    """Where the embedded corpus and its stores are kept: $GESSO_CACHE or ~/.cache/gesso."""
    return Path(os.environ.get("GESSO_CACHE") or "~/.cache/gesso").expanduser()


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    devices,
    memory,
    disk,
    cache,
    clock,
    optional,
)


def _within(version: str, bounds: str) -> bool:
    return Requirement(f"x{bounds}").specifier.contains(Version(version), prereleases=True)


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {
        "ok": "[green]ok",
        "note": "[dim]note",
        "warning": "[yellow]warning",
        "fail": "[red]FAIL",
    }
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for each in findings:
        table.add_row(marks[each.verdict], Text(each.check), Text(each.detail))
    output().print(table)
    failed = [each.check for each in findings if each.verdict == "fail"]
    if failed:
        output().print(
            f"\n[red bold]A run would not work here:[/] {', '.join(failed)} (see above)."
        )
    else:
        output().print("\n[green bold]A run would work here.[/] New here? gesso quickstart")
