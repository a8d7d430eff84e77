"""One part of one shard on disk: its files, and the commit record that is written last.

A part exists from the moment its record does. Everything else in a shard's folder is a leftover of
a killed builder and is deleted by the next one. docs/token_store.md describes the files.
"""

import json
import os
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from gesso.data.store.base import Split
from gesso.data.text.documents import Document
from gesso.data.text.record import Cursor
from gesso.data.text.rejects import BuildError, Reject
from gesso.storage.files import sync_folder, write_durably

FORMAT = 1
ERROR = "ERROR.json"

# A component costs files in every part; an address taken for a component would make millions.
MAX_COMPONENTS = 1000

_FLUSH = 1 << 20


class Account(TypedDict):
    """What a part holds of a component and split."""

    documents: int
    tokens: int
    bytes: int
    words: int
    tok_crc32: int
    off_crc32: int


class ComponentFiles(TypedDict):
    """A component in a part. file: its slug."""

    file: str
    train: NotRequired[Account]
    holdout: NotRequired[Account]


class Commit(TypedDict):
    """A part's record. start, end: cursors of the source (data/text/record.py). last: whether the
    shard ends with it."""

    format: int
    part: int
    source: str
    last: bool
    start: dict[str, int]
    end: dict[str, int]
    records: int
    rejects: dict[str, int]
    rejects_crc32: int
    hash_crc32: int
    components: dict[str, ComponentFiles]


def part_tokens(part: int, *, first: int, cap: int) -> int:
    """Tokens at which a part closes, at the end of the document that reaches them.

    It depends on nothing but the part's number, so any builder after any crash cuts alike: 1, 1, 2,
    4, ... times `first`, at most `cap`.
    """
    return min(first << max(0, part - 1), cap) if part < 64 else cap


def slug(component: str) -> str:
    """A component's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", component.lower()).strip("-")[:80] or "x"


def part_file(folder: Path, part: int, suffix: str) -> Path:
    """`pNNNNN.SUFFIX` in a shard's folder."""
    return folder / f"p{part:05d}.{suffix}"


def tokens_suffix(slug: str, split: str) -> str:
    """The suffix of a component's token file, without `.tok` or `.off`."""
    return slug if split == "train" else f"{slug}.{split}"


def read_commits(folder: Path, *, start: int = 0) -> Iterator[Commit]:
    """The commit records from part `start` on, as far as they go."""
    part = start
    while (path := part_file(folder, part, "json")).exists():
        yield json.loads(path.read_bytes())
        part += 1


def clear_uncommitted(folder: Path, *, parts: int) -> None:
    """Delete what a killed builder left behind the last commit. Only the lock's holder may."""
    for path in folder.iterdir():
        found = re.match(r"p(\d{5,})\.", path.name)
        if path.name.endswith(".tmp") or (found and int(found[1]) >= parts):
            path.unlink()


class Components:
    """The component names of a store so far; two that would share a file name are refused."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def slug(self, component: str, *, where: str = "the store") -> str:
        """The component's slug. Raises BuildError on a collision and on far too many components."""
        found = slug(component)
        if self._names.setdefault(found, component) != component:
            raise BuildError(
                f"{where}: the components {self._names[found]!r} and {component!r} would share "
                f"their file name {found!r}; rename one of them in the source"
            )
        if len(self._names) > MAX_COMPONENTS:
            raise BuildError(
                f"{where}: more than {MAX_COMPONENTS:,} components, the newest {component!r}; "
                "does component_key name the right key?"
            )
        return found


class PartWriter:
    """Writes one part as its documents come, so that memory does not grow with the part."""

    def __init__(
        self,
        folder: Path,
        part: int,
        *,
        source: str,
        start: Cursor,
        components: Components,
        step: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.part = part
        self.tokens = 0
        self._source = source
        self._start = start
        self._components = components
        self._step = step
        self._runs: dict[tuple[str, Split], _Run] = {}
        self._hashes = self._open("hash")
        self._rejects: _Output | None = None
        self._reject_counts: Counter[str] = Counter()

    def add(self, document: Document, tokens: np.ndarray, *, where: str) -> None:
        """Add a document. Raises BuildError where its component cannot be stored."""
        key = (document.component, document.split)
        run = self._runs.get(key)
        if run is None:
            name = self._components.slug(document.component, where=where)
            run = _Run(self._open(f"{tokens_suffix(name, document.split)}.tok"))
            self._runs[key] = run
        run.add(document, tokens)
        self._hashes.write(document.hash.to_bytes(8, "little"))
        self.tokens += document.tokens

    def add_reject(self, reject: Reject, *, line: int, byte: int) -> None:
        """Keep a reject. line: from 1; byte: decompressed, where the record before it ends."""
        if self._rejects is None:
            self._rejects = self._open("rejects.jsonl")
        record = {"line": line, "byte": byte, **reject._asdict()}
        self._rejects.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._reject_counts[reject.reason] += 1

    def commit(self, end: Cursor, *, last: bool) -> Commit:
        """Make the part exist. Returns its record."""
        components: dict[str, ComponentFiles] = {}
        for component, split in sorted(self._runs):
            name = slug(component)
            run = self._runs[component, split]
            offsets = self._open(f"{tokens_suffix(name, split)}.off")
            account = run.finish(offsets)
            components.setdefault(component, {"file": name})[split] = account
        self._hashes.finish()
        if self._rejects is not None:
            self._rejects.finish()
        record: Commit = {
            "format": FORMAT,
            "part": self.part,
            "last": last,
            "source": self._source,
            "start": self._start._asdict(),
            "end": end._asdict(),
            "records": end.record - self._start.record,
            "rejects": dict(sorted(self._reject_counts.items())),
            "rejects_crc32": self._rejects.crc32 if self._rejects else 0,
            "hash_crc32": self._hashes.crc32,
            "components": components,
        }
        assert record["records"] == self._documents() + self._reject_counts.total(), (
            f"{self.folder.name}, part {self.part}: a record went missing"
        )
        sync_folder(self.folder)
        content = json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
        write_durably(part_file(self.folder, self.part, "json"), content, step=self._step)
        return record

    def abandon(self) -> None:
        """Close the files; they stay behind as leftovers."""
        for output in [self._hashes, self._rejects, *(run.output for run in self._runs.values())]:
            if output is not None:
                output.close()

    def _documents(self) -> int:
        return sum(run.documents for run in self._runs.values())

    def _open(self, suffix: str) -> "_Output":
        return _Output(part_file(self.folder, self.part, suffix), self._step)


class _Run:
    """The documents of one component and split in a part."""

    def __init__(self, output: "_Output") -> None:
        self.output = output
        self._offsets = array("q", [0])
        self._bytes = 0
        self._words = 0

    @property
    def documents(self) -> int:
        return len(self._offsets) - 1

    def add(self, document: Document, tokens: np.ndarray) -> None:
        assert len(tokens) == document.tokens
        self.output.write(tokens.tobytes())
        self._offsets.append(self._offsets[-1] + len(tokens))
        self._bytes += document.bytes
        self._words += document.words

    def finish(self, offsets: "_Output") -> Account:
        offsets.write(np.array(self._offsets, "<i8").tobytes())
        offsets.finish()
        self.output.finish()
        return {
            "documents": self.documents,
            "tokens": self._offsets[-1],
            "bytes": self._bytes,
            "words": self._words,
            "tok_crc32": self.output.crc32,
            "off_crc32": offsets.crc32,
        }


class _Output:
    """A file that gets its name when it is whole. Unbuffered: a crash leaves no late write."""

    def __init__(self, path: Path, step: Callable[[str], None]) -> None:
        self.path = path
        self.crc32 = 0
        self._step = step
        self._temporary = path.with_name(path.name + ".tmp")
        self._held: list[bytes] = []
        self._size = 0
        # Opened at the first flush: a part of 22 components and 2 splits has 88 files.
        self._file: int | None = None

    def write(self, content: bytes) -> None:
        self._held.append(content)
        self._size += len(content)
        if self._size >= _FLUSH:
            self._flush()

    def finish(self) -> None:
        self._flush()
        assert self._file is not None
        os.fsync(self._file)
        self.close()
        self._step(f"written {self.path.name}")
        self._temporary.replace(self.path)
        self._step(f"renamed {self.path.name}")

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _flush(self) -> None:
        content = memoryview(b"".join(self._held))
        self._held, self._size = [], 0
        self.crc32 = zlib.crc32(content, self.crc32)
        self._step(f"opening {self.path.name}")
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.open(self._temporary, flags, 0o644)
        half = len(content) // 2
        for piece in (content[:half], content[half:]):
            while piece:
                piece = piece[os.write(self._file, piece) :]
            self._step(f"writing {self.path.name}")
