"""What a build shows: a progress bar while it runs, a table of the store when it is done."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from gesso.data.store.base import Store, Totals


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a store holds, and how long this call took.

    totals: {component: {split: {"documents", "tokens", "bytes", "words"}}}; rejects: {reason:
    records}; duplicates: share of documents whose exact text came before; complete: False while
    other builders still work on their share.
    """

    folder: Path
    fingerprint: str
    complete: bool
    totals: Totals
    rejects: dict[str, int]
    duplicates: float
    seconds: float

    @classmethod
    def of(cls, store: Store, *, seconds: float) -> "BuildReport":
        """The report of a store as it is now."""
        return cls(
            folder=store.folder,
            fingerprint=store.fingerprint,
            complete=store.complete,
            totals=store.totals(),
            rejects=store.rejects(),
            duplicates=store.duplicates(),
            seconds=seconds,
        )

    def sum(self, unit: str, *, split: str = "") -> int:
        """Documents, tokens, bytes or words over all components; of one split where it is given."""
        return sum(
            counts[unit]
            for splits in self.totals.values()
            for name, counts in splits.items()
            if split in ("", name)
        )

    def table(self) -> Table:
        """A line per component."""
        state = "" if self.complete else " (not complete yet)"
        rejected = sum(self.rejects.values())
        table = Table(
            title=f"{self.folder}{state}",
            caption=f"{rejected:,} records rejected, {self.duplicates:.2%} exact duplicates, "
            f"fingerprint {self.fingerprint[:12]}, {self.seconds:.1f} s",
        )
        table.add_column("component")
        for title in ("documents", "tokens", "megabytes", "words", "held-out tokens"):
            table.add_column(title, justify="right")
        rows: dict[str, dict[str, Any]] = {
            name: {
                unit: sum(counts[unit] for counts in splits.values())
                for unit in ("documents", "tokens", "bytes", "words")
            }
            | {"held": splits["holdout"]["tokens"]}
            for name, splits in self.totals.items()
        }
        units = ("documents", "tokens", "bytes", "words", "held")
        rows["all"] = {unit: sum(row[unit] for row in rows.values()) for unit in units}
        for name, row in rows.items():
            if name == "all":
                table.add_section()
            table.add_row(
                name,
                f"{row['documents']:,}",
                f"{row['tokens']:,}",
                f"{row['bytes'] / 1e6:,.1f}",
                f"{row['words']:,}",
                f"{row['held']:,}",
            )
        return table

    def show(self) -> None:
        """Print the table on stderr."""
        Console(stderr=True).print(self.table())


class Display:
    """Progress over the bytes of the sources; silent where stderr is not a terminal."""

    def __init__(self, *, total: int) -> None:
        self._tokens = 0
        self._done: dict[int, float] = {}
        self._sizes: dict[int, int] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[tokens]} tokens"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total, tokens="0")

    def add(self, name: str, size: int) -> tuple[int, str]:
        """A source to show the progress of."""
        self._sizes[len(self._sizes)] = size
        return len(self._sizes) - 1, name

    def advance(self, task: tuple[int, str], *, fraction: float, tokens: int) -> None:
        """Say that a source has been read up to a fraction, and gave so many more tokens."""
        number, name = task
        self._done[number] = fraction * self._sizes[number]
        self._tokens += tokens
        done = sum(self._done.values())
        shown = f"{self._tokens:,}"
        self._bar.update(self._task, description=name, completed=done, tokens=shown)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
