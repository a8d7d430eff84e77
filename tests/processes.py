"""Starts the processes of a run on this machine, and collects what they did."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one process ended. code: exit status, -N for signal N, None when it was still running at
    the timeout and was killed. seconds: since the start of all."""

    code: int | None
    output: str
    seconds: float


def run_processes(
    command: Sequence[str],
    *,
    count: int = 2,
    devices: int = 2,
    timeout_seconds: float = 120,
    environ: Mapping[str, str] | None = None,
    each: Mapping[int, Mapping[str, str]] | None = None,
    started: Callable[[list[subprocess.Popen]], None] | None = None,
) -> list[Ended]:
    """Run `python COMMAND` `count` times as one run of `count` processes, with `devices` virtual
    devices each, and wait for all of them.

    environ: for all; each: by process. started: called with the processes once they run, to send
    signals. Every process is in a group of its own, and none outlives the call.
    """
    port = free_ports()
    began, running, outputs = time.monotonic(), [], []
    try:
        for process in range(count):
            output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed below
            outputs.append(output)
            running.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=_environ(count, devices)
                    | ({} if count == 1 else _place(process, count, port))
                    | dict(environ or {})
                    | dict((each or {}).get(process, {})),
                    cwd=REPOSITORY,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        if started:
            started(running)
        ends: dict[int, float] = {}
        while len(ends) < count and time.monotonic() - began < timeout_seconds:
            for process, each_running in enumerate(running):
                if process not in ends and each_running.poll() is not None:
                    ends[process] = time.monotonic() - began
            time.sleep(0.05)
    finally:
        for each_running in running:
            if each_running.poll() is None:
                os.killpg(each_running.pid, signal.SIGKILL)
                each_running.wait()
    ended = []
    for process, output in enumerate(outputs):
        output.seek(0)
        code = running[process].returncode if process in ends else None
        seconds = ends.get(process, timeout_seconds)
        ended.append(Ended(code=code, output=output.read(), seconds=seconds))
        output.close()
    return ended


def wait_for_line(path: Path, text: str, *, timeout_seconds: float = 60) -> None:
    """Until a file that a process writes holds `text`."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.02)
    raise TimeoutError(f"{path} did not say {text!r}")


def free_ports() -> int:
    """A port that is free, as the next one is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _environ(count: int, devices: int) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GESSO_PROCESS", "SLURM_"))}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
    }


def _place(process: int, count: int, port: int) -> dict[str, str]:
    return {
        "GESSO_COORDINATOR": f"127.0.0.1:{port}",
        "GESSO_PROCESS": str(process),
        "GESSO_PROCESSES": str(count),
    }
