"""What a measuring process needs: its job, a file that never loses a figure, and a clock."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Record:
    """The figures of one job. `add` writes the whole file at once, so that a killed process
    leaves everything it had measured."""

    def __init__(self, path: Path):
        self.path = path
        self.figures: dict[str, Any] = {}

    def add(self, figures: Mapping[str, Any]) -> None:
        self.figures |= figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix(".part")
        half.write_text(json.dumps(self.figures, indent=1) + "\n")
        half.replace(self.path)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over windows, and the fastest and slowest window."""

    median: float
    lowest: float
    highest: float
    windows: int
    calls_per_window: int


def timed(
    run: Callable[[], Any],
    wait: Callable[[Any], Any],
    *,
    warmup: int = 3,
    windows: int = 5,
    window_seconds: float = 0.7,
) -> Timing:
    """Time calls of `run` in windows of several, each closed by `wait(last result)`.

    Windows, because waiting after every call would count the way to the device and back.
    """
    for _ in range(max(warmup - 1, 0)):
        wait(run())
    start = time.perf_counter()
    wait(run())
    once = time.perf_counter() - start
    calls = max(1, min(50, round(window_seconds / max(once, 1e-6))))
    seconds = []
    for _ in range(windows):
        start = time.perf_counter()
        for _ in range(calls - 1):
            run()
        wait(run())
        seconds.append((time.perf_counter() - start) / calls)
    return Timing(statistics.median(seconds), min(seconds), max(seconds), windows, calls)


def job() -> tuple[dict[str, Any], Record]:
    """This process's specification and its record, from the command line the driver wrote."""
    parser = argparse.ArgumentParser(description="One job of benchmarks/gpu.sh")
    parser.add_argument("specification", help="JSON")
    parser.add_argument("--output", required=True, type=Path)
    asked = parser.parse_args()
    return json.loads(asked.specification), Record(asked.output)
