"""Readers: a shard's records one after the other, from any place where an earlier reading stopped.

Every record carries the cursor behind it. Handing that cursor to a new reader continues exactly
there; for line-based files the bytes before it are checked to be the ones read the first time.
"""

import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from etils import epath

from gesso.data.text.parquet import Table
from gesso.data.text.record import Cursor, Reader, Record
from gesso.data.text.rejects import HEAD_BYTES
from gesso.data.text.shards import Shard, SourceError, codec, file_size, is_remote
from gesso.data.text.tfds import Examples

# A read that meets the end of a truncated file loses its own bytes: so much is not reported.
BLOCK = 1 << 16


def open_reader(
    shard: Shard,
    *,
    text_key: str,
    component_key: str,
    text_split: Literal["file", "blank_line", "line"],
    limit: int,
) -> Reader:
    """A reader of the shard. limit: bytes above which only a record's head is held."""
    if shard.form == "jsonl":
        return Lines(shard, limit=limit)
    if shard.form == "text":
        if text_split == "file":
            return WholeFiles(shard, limit=limit)
        return Lines(shard, limit=limit) if text_split == "line" else Blocks(shard, limit=limit)
    if shard.form == "parquet":
        return Table(shard, text_key=text_key, component_key=component_key, limit=limit)
    return Examples(shard, text_key=text_key, component_key=component_key, limit=limit)


class Stream:
    """A file's decompressed bytes, in order. Truncation is an error, never an early end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.position = 0
        self.size = file_size(path)
        if codec(path) and not self.size:
            raise SourceError(f"{path}: an empty file is not a {codec(path)} stream; copy it again")
        place = epath.Path(path) if is_remote(path) else Path(path)
        self._file: Any = place.open("rb")
        self._stream: Any = self._file
        if name := codec(path):
            # python-zstandard's stream_reader ends a truncated file silently; pyarrow raises.
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._file, mode="r"), name)

    def read(self, count: int) -> bytes:
        """The next bytes, at most `count`; b"" at the end."""
        try:
            block = self._stream.read(count)
        except (OSError, EOFError) as error:
            raise SourceError(_explain(self.path, self.position, str(error))) from None
        self.position += len(block)
        return block

    def blocks(self) -> Iterator[bytes]:
        while block := self.read(BLOCK):
            yield block

    def skip(self, count: int | None, *, crc32: int) -> int:
        """Read `count` bytes (None: all there are) and return the crc32 with them.

        Raises SourceError where there are fewer.
        """
        while count is None or self.position < count:
            block = self.read(BLOCK if count is None else min(BLOCK, count - self.position))
            if not block and count is None:
                break
            if not block:
                raise SourceError(
                    f"{self.path}: ends at decompressed byte {self.position:,}, but parts up to "
                    f"byte {count:,} are committed; restore the file, or use a new folder"
                )
            crc32 = zlib.crc32(block, crc32)
        return crc32

    def fraction(self) -> float:
        return min(1.0, self._file.tell() / max(1, self.size)) if not self._file.closed else 1.0

    def close(self) -> None:
        self._file.close()


class Line(NamedTuple):
    """A line without its newline; see Record. end: the byte behind its newline."""

    raw: bytes
    length: int
    end: int
    crc32: int


def split_lines(blocks: Iterator[bytes], *, limit: int, start: int, crc32: int) -> Iterator[Line]:
    """Lines of a stream, split at b"\\n" alone (str.splitlines also splits at U+2028).

    Of a line longer than `limit` only the head is kept, so memory is bounded by limit and block.
    """
    at, crc = start, crc32
    pending: list[bytes] = []
    length = 0
    for block in blocks:
        *whole, rest = block.split(b"\n")
        for raw in whole:
            crc = zlib.crc32(b"\n", zlib.crc32(raw, crc))
            size = len(raw)
            if length:
                pending.append(raw)
                raw, size = b"".join(pending), length + size
                pending, length = [], 0
            at += size + 1
            yield Line(raw if size <= limit else raw[:HEAD_BYTES], size, at, crc)
        if rest:
            crc = zlib.crc32(rest, crc)
            length += len(rest)
            pending.append(rest)
            if length > limit:
                pending = [b"".join(pending)[:HEAD_BYTES]]
    if length:
        raw = b"".join(pending)
        yield Line(raw if length <= limit else raw[:HEAD_BYTES], length, at + length, crc)


class Lines:
    """One record per line, of one file or of several text files."""

    def __init__(self, shard: Shard, *, limit: int) -> None:
        self.shard = shard
        self.limit = limit
        self._stream: Stream | None = None
        self._file = 0
        self._crc = 0

    def records(self, cursor: Cursor) -> Iterator[Record]:
        record, crc = cursor.record, _crc_of_files(self.shard, cursor)
        for number in range(cursor.file, len(self.shard.files)):
            with closing(Stream(self.shard.files[number])) as stream:
                self._file, self._stream = number, stream
                if number == cursor.file:
                    crc = stream.skip(cursor.byte, crc32=crc)
                    _check_prefix(self.shard, cursor, crc32=crc)
                self._crc = crc
                lines = split_lines(
                    stream.blocks(), limit=self.limit, start=stream.position, crc32=crc
                )
                for raw, length, end, reached in self.group(self._watch(lines)):
                    record += 1
                    place = Cursor(number, end, record, reached)
                    yield Record(place, raw, length, self.shard.component)
                crc = self._crc

    def _watch(self, lines: Iterator[Line]) -> Iterator[Line]:
        for line in lines:
            self._crc = line.crc32
            yield line

    def group(self, lines: Iterator[Line]) -> Iterator[Line]:
        return lines

    def fraction(self) -> float:
        inside = self._stream.fraction() if self._stream else 0.0
        return (self._file + inside) / len(self.shard.files)


class Blocks(Lines):
    """One record per run of lines that are not blank."""

    def group(self, lines: Iterator[Line]) -> Iterator[Line]:
        gathered: list[bytes] = []
        size = 0
        last: Line | None = None
        for line in lines:
            if line.raw.strip():
                size += line.length + (1 if gathered else 0)
                if size <= self.limit:
                    gathered.append(line.raw)
                elif not gathered:
                    gathered = [line.raw]
                last = line
            elif last is not None:
                yield Line(self._text(gathered, size), size, line.end, line.crc32)
                gathered, size, last = [], 0, None
        if last is not None:
            yield Line(self._text(gathered, size), size, last.end, last.crc32)

    def _text(self, gathered: list[bytes], size: int) -> bytes:
        text = b"\n".join(gathered)
        return text if size <= self.limit else text[:HEAD_BYTES]


class WholeFiles:
    """One record per text file."""

    def __init__(self, shard: Shard, *, limit: int) -> None:
        self.shard = shard
        self.limit = limit
        self._file = 0

    def records(self, cursor: Cursor) -> Iterator[Record]:
        record, crc = cursor.record, _crc_of_files(self.shard, cursor)
        _check_prefix(self.shard, cursor, crc32=crc)
        for number in range(cursor.file, len(self.shard.files)):
            self._file = number
            with closing(Stream(self.shard.files[number])) as stream:
                kept: list[bytes] = []
                length = 0
                for block in stream.blocks():
                    length += len(block)
                    crc = zlib.crc32(block, crc)
                    if length <= self.limit:
                        kept.append(block)
                    else:
                        kept = [b"".join([*kept, block])[:HEAD_BYTES]]
            record += 1
            end = Cursor(number + 1, 0, record, crc)
            yield Record(end, b"".join(kept), length, self.shard.component)

    def fraction(self) -> float:
        return self._file / len(self.shard.files)


def _crc_of_files(shard: Shard, cursor: Cursor) -> int:
    """The crc32 of all files before the cursor's."""
    crc = 0
    for path in shard.files[: cursor.file]:
        with closing(Stream(path)) as stream:
            crc = stream.skip(None, crc32=crc)
    return crc


def _check_prefix(shard: Shard, cursor: Cursor, *, crc32: int) -> None:
    if crc32 != cursor.crc32:
        path = shard.files[0] if len(shard.files) == 1 else shard.name
        raise SourceError(
            f"{path}: what comes before record {cursor.record + 1:,} is not what the committed "
            "parts were made from; restore the file, or use a new folder"
        )


def _explain(path: str, position: int, error: str) -> str:
    place = f"{path}: after decompressed byte {position:,}: "
    lowered = error.lower()
    if "truncated" in lowered:
        return f"{place}the file is truncated; copy it again, and the build continues from there"
    if "too much memory" in lowered:
        return (
            f"{place}compressed with a window over 128 MiB (zstd --long above 27); "
            f"recompress it: zstd -d --long=31 --memory=2048MB {Path(path).name}, "
            "then zstd --long=27"
        )
    return f"{place}the file is damaged or not {codec(path) or 'readable'} ({error}); copy it again"
