"""What a person at the terminal sees of a run: one live line, or plain lines in a log."""

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

NOT_KNOWN = "n/a"


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


def short(number: float) -> str:
    """1234567 -> "1.23M": three significant digits and a power of thousand."""
    if not math.isfinite(number):
        return NOT_KNOWN
    for power, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,999 is 1.00M, not 1000k: round to the three digits shown before choosing.
        if abs(number) >= power * 0.9995:
            return f"{_three_digits(number / power)}{suffix}"
    return f"{number:.0f}" if number == int(number) else _three_digits(number)


def _three_digits(number: float) -> str:
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}"


def duration(seconds: float) -> str:
    """3912 -> "1h 05m"; under an hour "3m 12s"; under a minute "12s"; over two days "3d 4h"."""
    if not math.isfinite(seconds):
        return NOT_KNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if whole >= 10 or seconds == whole else f"{seconds:.1f}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes}m {whole % 60:02d}s"
    if days < 2:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{days}d {hours % 24}h"


def byte_size(count: float) -> str:
    """15800000 -> "15.8 MB"."""
    text = short(count)
    prefixes = {"k": "k", "M": "M", "B": "G", "T": "T"}
    return f"{text[:-1]} {prefixes[text[-1]]}B" if text[-1:] in prefixes else f"{text} B"
