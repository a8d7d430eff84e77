"""Where the time of every process goes: RUN/hosts/PROCESS.jsonl, a line per logged step."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

WAIT = "wait"  # for the devices, and so for the other hosts


class Processes(Protocol):
    """The processes of a run (partitioning.hosts): this one's number, how many there are, and the
    names of their machines."""

    @property
    def process(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def names(self) -> Sequence[str]: ...


class Spans:
    """Stands between the loop and two of its hooks, and keeps the time of each phase.

    Every process writes a file of its own, so that none waits for another. progress, record: the
    hooks that hear of everything next. overlapped: whether a step runs on while the host goes on
    (not on several CPU devices, partitioning.mesh.settle). A line is {"step", "time", "process",
    "host", "overlapped", "spans": {phase: seconds since the line before}}. Raises OSError.
    """

    def __init__(
        self,
        folder: Path,
        hosts: Processes,
        *,
        progress: Callable[[str], None],
        record: Callable[[dict[str, Any]], None],
        overlapped: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._progress, self._record, self._clock = progress, record, clock
        self._who = {"process": hosts.process, "host": hosts.names[hosts.process]}
        self._who |= {"overlapped": overlapped}
        self._phase, self._since = "start", clock()
        self._spans: dict[str, float] = {}
        self._file = None
        if hosts.count > 1:
            (folder / "hosts").mkdir(parents=True, exist_ok=True)
            # A line at a time: what a killed process leaves is whole but for its last line.
            path = folder / "hosts" / f"{hosts.process}.jsonl"
            self._file = path.open("a", buffering=1, encoding="utf-8")

    def progress(self, phase: str) -> None:
        """The loop goes from one phase to the next. Waiting is part of a step for the watchdog."""
        now = self._clock()
        self._spans[self._phase] = self._spans.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now
        self._progress("step" if phase == WAIT else phase)

    def record(self, record: dict[str, Any]) -> None:
        """A logged step is over: write a line, then pass the record on."""
        self.progress(self._phase)
        self.write({"step": record["step"], "spans": self._spans})
        self._spans = {}
        self._record(record)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line about this process."""
        if self._file:
            told = {"time": round(time.time(), 3), **self._who, **line}
            spans = {name: round(seconds, 6) for name, seconds in told.get("spans", {}).items()}
            self._file.write(json.dumps(told | {"spans": spans}) + "\n")

    def close(self) -> None:
        """No more lines; twice does no harm."""
        if self._file:
            self._file.close()
            self._file = None


def read_spans(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """{process: its lines in order}; of a step that was repeated after a crash, the later line.
    Lines that are torn are left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((folder / "hosts").glob("*.jsonl")):
        by_step: dict[Any, dict[str, Any]] = {}
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
                by_step[line["step"]] = line
            except (ValueError, KeyError, TypeError):
                continue
        if path.stem.isdecimal() and by_step:
            found[int(path.stem)] = [by_step[step] for step in sorted(by_step)]
    return dict(sorted(found.items()))
