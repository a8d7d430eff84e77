"""The builder: raw shards to a token store, part by part, safe to kill and to start again.

Parts are committed era by era (part e of every shard before part e + 1), so that training can read
the first ones while the rest is made.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gesso.data.config import BuildConfig
from gesso.data.store.build_report import BuildReport, Display
from gesso.data.store.identity import LOCKS, identity, prepare_folder
from gesso.data.store.locks import SHARED, FileLock
from gesso.data.store.parts import (
    ERROR,
    Components,
    PartWriter,
    clear_uncommitted,
    part_tokens,
    read_commits,
)
from gesso.data.store.tokens import TokenStore
from gesso.data.store.workers import Encoder, open_encoder
from gesso.data.text.documents import Batch, Document, DocumentRules, Encoded
from gesso.data.text.readers import open_reader
from gesso.data.text.record import Cursor, Record
from gesso.data.text.rejects import BuildError, Reject, RejectPolicy
from gesso.data.text.shards import Shard
from gesso.data.text.sources import check_checksums, read_checksums, resolve
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer
from gesso.storage.files import write_durably

# A batch is one unit of work for a tokenizer process. Its size never shows in the output.
BATCH_BYTES = 1 << 20
BATCH_RECORDS = 1024
# Shards beyond these are closed between their parts and read anew up to there.
OPEN_SHARDS = 64


def ignore(where: str) -> None:
    """What a build tells its `step` argument when nobody asks."""


def build(
    config: BuildConfig | None = None,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    step: Callable[[str], None] = ignore,
    **fields: Any,
) -> BuildReport:
    """Build a token store, or continue one: the same call after any interruption finishes it.

    Takes a BuildConfig, its fields as keywords, or both (the keywords win). tokenizer: in place of
    `config.tokenizer`, also as an object. step: called with a name at each point of the write path
    (tests crash there). Progress is shown where stderr is a terminal; `.show()` of the report
    prints the final table.

    Raises BuildError (a ValueError) for a source that is missing, truncated or too bad, a folder
    that belongs to other settings, and a shard another process is building. What was committed
    before stays, and `ERROR.json` in the shard's folder lets readers fail at once.
    """
    if tokenizer is not None and isinstance(tokenizer, str | Path):
        fields["tokenizer"] = str(tokenizer)
    if "sources" in fields:
        fields["sources"] = _sources(fields["sources"])
    if "folder" in fields:
        fields["folder"] = str(fields["folder"])
    config = BuildConfig(**fields) if config is None else replace(config, **fields)
    _check(config)
    started = time.monotonic()
    shards = resolve(config.sources)
    sums = read_checksums(config.checksums) if config.checksums else None
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(config.tokenizer)
    wanted = identity(config, shards=shards, tokenizer=tokenizer)
    folder = Path(config.folder).expanduser()
    with ExitStack() as stack:
        mine = range(config.share[0], len(shards), config.share[1])
        prepare_folder(folder, wanted, tokenizer=tokenizer, step=step)
        if not TokenStore(folder).complete:
            for number in mine:
                lock = FileLock(
                    folder / LOCKS / f"s{number:05d}.lock",
                    what=f"shard {number} ({shards[number].name}) of {folder}",
                    advice=SHARED,
                )
                lock.acquire()
                stack.callback(_release, lock)
            work = _Work(config, tokenizer, wanted["dtype"], folder, sums, step)
            stack.callback(work.encoder.close)
            _build_shards(work, {number: shards[number] for number in mine})
    return BuildReport.of(TokenStore(folder), seconds=time.monotonic() - started)


class _Work:
    """What all shards of one build share."""

    def __init__(
        self,
        config: BuildConfig,
        tokenizer: Tokenizer,
        dtype: str,
        folder: Path,
        sums: dict[str, str] | None,
        step: Callable[[str], None],
    ) -> None:
        self.config = config
        self.folder = folder
        self.sums = sums
        self.step = step
        self.components = Components()
        rules = DocumentRules(
            text_key=config.text_key,
            component_key=config.component_key,
            max_document_bytes=config.max_document_bytes,
            holdout=config.holdout,
            dtype=dtype,
        )
        self.encoder: Encoder = open_encoder(
            workers=config.workers,
            rules=rules,
            tokenizer=tokenizer,
            folder=folder / "tokenizer",
        )


def _build_shards(work: _Work, shards: dict[int, Shard]) -> None:
    with Display(total=sum(shard.size for shard in shards.values())) as display:
        builders = [_ShardBuilder(work, number, shard, display) for number, shard in shards.items()]
        for part in builders:
            part.start()
        era = 0
        while any(not builder.done for builder in builders):
            for place, builder in enumerate(builders):
                if not builder.done and builder.parts <= era:
                    builder.build_part()
                    if place >= OPEN_SHARDS:
                        builder.pause()
            era += 1


class _ShardBuilder:
    """Writes one shard. Holds no more than a batch or two beyond the part it is writing."""

    def __init__(self, work: _Work, number: int, shard: Shard, display: Display) -> None:
        self._work = work
        self._shard = shard
        self._display = display
        self._task = display.add(shard.name, shard.size)
        self._folder = work.folder / f"s{number:05d}"
        self._documents: Iterator[tuple[Document | Reject, np.ndarray, Cursor]] | None = None
        self._tokens_per_byte = 0.5
        self._wanted_tokens = 0
        self.parts = 0
        self.done = False
        self._end = Cursor()
        self._checked = False

    def start(self) -> None:
        """Take up where the commits end."""
        config = self._work.config
        self._folder.mkdir(parents=True, exist_ok=True)
        counts: dict[str, int] = {}
        for record in read_commits(self._folder):
            self.parts += 1
            self.done = record["last"]
            self._end = Cursor(**record["end"])
            for reason, number in record["rejects"].items():
                counts[reason] = counts.get(reason, 0) + number
            for component in record["components"]:
                self._work.components.slug(component)
        clear_uncommitted(self._folder, parts=self.parts)
        (self._folder / ERROR).unlink(missing_ok=True)
        self._policy = RejectPolicy(
            self._shard.files[0] if len(self._shard.files) == 1 else self._shard.name,
            on_bad_input=config.on_bad_input,
            cap=config.reject_cap,
            records=self._end.record,
            counts=counts,
        )

    def build_part(self) -> None:
        """Write and commit the next part. An error is left behind for readers, and raised."""
        try:
            if self._work.sums is not None and not self._checked:
                check_checksums(self._shard, self._work.sums)
                self._checked = True
            self._build_part()
        except Exception as error:
            message = {"shard": self._shard.name, "type": type(error).__name__}
            content = json.dumps({**message, "message": str(error)}).encode()
            with suppress(OSError):  # a full disk: the error itself says so
                write_durably(self._folder / ERROR, content)
            raise

    def pause(self) -> None:
        """Close the source until the next part."""
        self._documents = None

    def _build_part(self) -> None:
        work, config = self._work, self._work.config
        limit = part_tokens(self.parts, first=config.part_tokens_first, cap=config.part_tokens_cap)
        writer = PartWriter(
            self._folder,
            self.parts,
            source=self._shard.name,
            start=self._end,
            components=work.components,
            step=work.step,
        )
        if self._documents is None:
            self._documents = self._read_documents()
        end, policy = self._end, self._policy
        try:
            self._wanted_tokens = limit
            last = True
            for item, tokens, after in self._documents:
                if isinstance(item, Reject):
                    policy.refuse(item, line=after.record)
                    writer.add_reject(item, line=after.record, byte=end.byte)
                    end = after
                    continue
                policy.accept()
                writer.add(item, tokens, where=f"{policy.source}:{after.record}")
                end = after
                self._wanted_tokens = limit - writer.tokens
                if writer.tokens >= limit:
                    last = False
                    break
            if last:
                policy.judge()
            writer.commit(end, last=last)
        finally:
            writer.abandon()
        self._end = end
        self.parts += 1
        self.done = last
        if last:
            self._display.advance(self._task, fraction=1.0, tokens=0)
            self.pause()

    def _read_documents(self) -> Iterator[tuple[Document | Reject, np.ndarray, Cursor]]:
        """The shard's records, tokenized, in order; a few batches are under way at a time.

        How many depends on the tokens this part still wants, so that little is held between parts.
        An error in the source comes after every record before it, for any number of workers.
        """
        batches = self._read_batches()
        flying: deque[tuple[Future[Encoded], list[Cursor], int, float]] = deque()
        failure: BuildError | None = None
        ended = False
        while True:
            expected = 0.0
            while not ended and len(flying) < self._work.encoder.ahead:
                expected = self._tokens_per_byte * sum(size for _, _, size, _ in flying)
                if flying and expected >= self._wanted_tokens:
                    break
                try:
                    batch, ends, size, fraction = next(batches)
                except StopIteration:
                    ended = True
                except BuildError as error:
                    failure, ended = error, True
                else:
                    flying.append((self._work.encoder.submit(batch), ends, size, fraction))
            if not flying:
                break
            future, ends, size, fraction = flying.popleft()
            encoded = future.result()
            self._tokens_per_byte = len(encoded.tokens) / max(1, size)
            self._display.advance(self._task, fraction=fraction, tokens=len(encoded.tokens))
            at = 0
            for item, end in zip(encoded.items, ends, strict=True):
                count = item.tokens if isinstance(item, Document) else 0
                yield item, encoded.tokens[at : at + count], end
                at += count
        if failure is not None:
            raise failure

    def _read_batches(self) -> Iterator[tuple[Batch, list[Cursor], int, float]]:
        config = self._work.config
        reader = open_reader(
            self._shard,
            text_key=config.text_key,
            component_key=config.component_key,
            text_split=config.text_split,
            limit=config.max_document_bytes,
        )
        form = "json" if self._shard.form == "jsonl" else "text"
        held: list[Record] = []
        size = 0
        failure: BuildError | None = None

        def batch() -> tuple[Batch, list[Cursor], int, float]:
            records = [(record.raw, record.length, record.component) for record in held]
            ends = [record.end for record in held]
            return Batch(form, records, self._shard.fallback), ends, size, reader.fraction()

        try:
            for record in reader.records(self._end):
                held.append(record)
                size += len(record.raw or b"")
                if size >= BATCH_BYTES or len(held) >= BATCH_RECORDS:
                    yield batch()
                    held, size = [], 0
        except BuildError as error:
            failure = error
        if held:
            yield batch()
        if failure is not None:
            raise failure


def _release(lock: FileLock) -> None:
    lock.release()
    with suppress(OSError):  # another builder still has locks there
        lock.path.parent.rmdir()


def _sources(sources: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    if isinstance(sources, str | Path):
        return (str(sources),)
    return tuple(str(source) for source in sources)


def _check(config: BuildConfig) -> None:
    first, cap = config.part_tokens_first, config.part_tokens_cap
    for wrong, message in (
        (not config.sources, "sources is empty; name at least one"),
        (not 0 <= config.holdout < 1, f"holdout {config.holdout} is not in [0, 1)"),
        (not 0 <= config.reject_cap <= 1, f"reject_cap {config.reject_cap} is not in [0, 1]"),
        (not config.text_key, "text_key is empty; name the key that holds the text"),
        (
            not 1 <= first <= cap,
            f"part_tokens_first {first} and part_tokens_cap {cap} must be 1 <= first <= cap",
        ),
        (config.max_document_bytes < 1, "max_document_bytes must be at least 1"),
        (config.workers < 1, f"workers {config.workers} must be at least 1"),
        (
            not 0 <= config.share[0] < config.share[1],
            f"share {config.share} is not (i, n) with 0 <= i < n",
        ),
        (
            config.text_split not in ("file", "blank_line", "line"),
            f"text_split {config.text_split!r} is not one of file, blank_line, line",
        ),
        (
            config.on_bad_input not in ("quarantine", "error"),
            f"on_bad_input {config.on_bad_input!r} is not one of quarantine, error",
        ),
    ):
        if wrong:
            raise BuildError(message)
