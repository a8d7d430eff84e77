"""A record of a shard, the place behind it, and what reads them: the contract of every reader."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Cursor(NamedTuple):
    """A place between two records of a shard.

    file: index into the shard's files. byte: in that file, decompressed (tables and datasets: 0).
    record: records of the shard before it. crc32: of the shard's bytes before it (tables and
    datasets: 0).
    """

    file: int = 0
    byte: int = 0
    record: int = 0
    crc32: int = 0


class Record(NamedTuple):
    """One record. raw: its bytes, or only the head where `length` exceeds the limit; None: null."""

    end: Cursor
    raw: bytes | None
    length: int
    component: str


class Reader(Protocol):
    """Reads one shard."""

    def records(self, cursor: Cursor) -> Iterator[Record]:
        """The records behind the cursor. Raises SourceError, naming file and decompressed byte."""
        ...

    def fraction(self) -> float:
        """About how much of the shard has been read, 0 to 1."""
        ...
