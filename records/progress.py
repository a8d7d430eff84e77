"""What a person at the terminal sees of a run: one live line, or plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from gesso.records.quantities import NOT_KNOWN, duration, short


class Progress:
    """Shows train records on stderr: step, loss, tokens/s, MFU, data wait, time left.

    A terminal gets one live line; anything else a plain line at most every `every_seconds`, and
    always the first and the last. `console` is for tests.
    """

    def __init__(
        self,
        *,
        steps: int,
        start: int = 0,
        name: str = "",
        every_seconds: float = 10.0,
        console: Console | None = None,
    ) -> None:
        self._steps, self._name, self._every_seconds = steps, name, every_seconds
        self._console = console or Console(stderr=True, highlight=False)
        self._last: float | None = None
        self._bar: Bar | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("[bold]{task.fields[name]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "", name=name, total=steps, completed=start, figures="compiling"
            )
            self._bar.start()

    def update(self, record: Mapping[str, Any]) -> None:
        """Show a train record (docs/metrics.md); keys it lacks are left out."""
        step, figures = int(record["step"]), figures_of(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
            return
        now = time.monotonic()
        due = self._last is None or now - self._last >= self._every_seconds
        if due or step >= self._steps:
            self._last = now
            head = f"{self._name} " if self._name else ""
            self._print(f"{head}step {step:,}/{self._steps:,}  {figures}")

    def message(self, text: str) -> None:
        """Print a line above the bar: a checkpoint, an evaluation, a sample."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        sys.stderr.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def figures_of(record: Mapping[str, Any]) -> str:
    """ "loss 2.314  18.2k tokens/s  MFU 41.0%  data wait 0.1%  3m 12s left"."""
    parts = []
    if (loss := record.get("loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if (rate := record.get("tokens_per_second")) is not None:
        parts.append(f"{short(rate)} tokens/s")
    if "mfu" in record:
        mfu = record["mfu"]
        parts.append(f"MFU {NOT_KNOWN if mfu is None else format(mfu, '.1%')}")
    if (wait := record.get("data_wait_fraction")) is not None:
        parts.append(f"data wait {wait:.1%}")
    if (left := record.get("seconds_left")) is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)
