"""The corpus that comes with Python: real Pile-format shards without a download.

Components: Stdlib and StdlibTests (code), Docstrings and LanguageReference (prose). The same Python
version gives the same documents in the same order. `ensure_store` goes all the way from nothing to
a token store, once per machine.
"""

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gesso.data.embedded.shards import HOLDOUT, VERSION, read_shard, write_shard
from gesso.data.store.locks import FileLock
from gesso.settings.nearest import nearest
from gesso.storage.files import write_json

KINDS = ("bytes", "sentencepiece", "bpe", "wordpiece", "words")
VOCAB_SIZE = 4096
WORDS = 65_536  # known by their spelling; VOCAB_SIZE of them are classes of a softmax
TRAIN_BYTES = 8_000_000
SHARDS = 4
RECORD = "corpus.json"
Holds = Literal["text", "task", "instructions"]
_HOLDS: dict[str, Holds] = {
    "embedded": "text",
    "embedded-task": "task",
    "embedded-instructions": "instructions",
}


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A parsed "embedded:KIND[:MEGABYTES]". megabytes: text in 10**6 bytes of UTF-8; 0: all. holds:
    "text", of "embedded-task:..." excerpts of it to be told apart (data/embedded/labelled.py), of
    "embedded-instructions:..." things to do with its words (data/embedded/instructions.py)."""

    kind: str
    megabytes: float = 0.0
    holds: Holds = "text"


def parse_store(spec: str) -> Embedded | None:
    """What DataConfig.store asks for: an embedded corpus, or None for a path.

    Raises ValueError for a mistyped "embedded" and an unknown form of it.
    """
    head, *rest = spec.split(":")
    if head not in _HOLDS:
        looks_meant = rest and rest[0] in KINDS
        if looks_meant and (near := nearest(head, _HOLDS, cutoff=0.7)):
            raise ValueError(f"store {spec!r}: did you mean {':'.join((near[0], *rest))!r}?")
        return None
    kind = rest[0] if rest else ""
    if kind not in KINDS:
        close = nearest(kind, KINDS) or ["bytes"]
        raise ValueError(
            f"store {spec!r}: tokenizers of the embedded corpus are {', '.join(KINDS)}; "
            f"did you mean '{head}:{close[0]}'?"
        )
    size = rest[1] if len(rest) == 2 else "0"
    if len(rest) > 2 or not re.fullmatch(r"\d+(\.\d+)?", size):
        raise ValueError(f"store {spec!r}: expected {head}:KIND[:MEGABYTES], as {head}:{kind}:4")
    return Embedded(kind=kind, megabytes=float(size), holds=_HOLDS[head])


def ensure_store(
    spec: str,
    cache_folder: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The store's folder for DataConfig.store; an embedded corpus is made first where it is not.

    cache_folder: where embedded corpora are kept; None: $GESSO_CACHE, else ~/.cache/gesso.
    progress: told each stage in a line; None: standard error where that is a terminal.
    Safe to call at any time, from several processes at once (one makes it, the others wait), and
    after a kill at any point.

    Raises ValueError for an unknown spec, and where this Python has no sources.
    """
    asked = parse_store(spec)
    if asked is None:
        return _path(spec)
    say = progress or _say
    folder = _folder(asked.megabytes, cache_folder)
    made = folder / asked.kind
    if not (made / "complete.json").is_file():
        with _lock(folder).wait(say):
            if not (made / "complete.json").is_file():
                _make(asked, folder, say)
    if asked.holds == "text":
        return made / "store"
    return _examples(asked, folder, say)


def corpus_shards(megabytes: float = 0, cache_folder: str | Path | None = None) -> list[Path]:
    """The corpus's shards in the cache (see ensure_store), written first where they are not."""
    folder = _folder(megabytes, cache_folder)
    with _lock(folder).wait(_say):
        return write_embedded(folder / "corpus", megabytes=megabytes)


def write_embedded(folder: str | Path, *, megabytes: float = 0, shards: int = SHARDS) -> list[Path]:
    """Write the corpus as Pile-format `.jsonl.zst` shards and return their paths.

    megabytes: the text's size in 10**6 bytes of UTF-8, in the proportions of the whole; 0: all.
    Exact duplicates are left out. corpus.json, written last, has the counts by component; a
    folder that has it with the same settings is returned as it is.

    Raises ValueError where this Python has no sources.
    """
    folder = Path(folder)
    paths = [folder / f"{shard:02d}.jsonl.zst" for shard in range(shards)]
    settings = {
        "version": VERSION,
        "python": platform.python_version(),
        "megabytes": megabytes,
        "shards": shards,
    }
    if _is_written(folder, settings, paths):
        return paths
    documents = _limit(_distinct(_documents()), megabytes)
    if not any(component == "Stdlib" for component, _ in documents):
        raise ValueError(
            f"Python {sys.version.split()[0]} at {sys.prefix} comes without the sources of its "
            "standard library; use another Python, or give a corpus of your own"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for shard, path in enumerate(paths):
        write_shard(path, documents[shard::shards])
    counts: dict[str, dict[str, int]] = {}
    for component, text in documents:
        of = counts.setdefault(component, {"documents": 0, "bytes": 0})
        of["documents"] += 1
        of["bytes"] += len(text.encode())
    sizes = {path.name: path.stat().st_size for path in paths}
    # Arrow's zstd frames carry no checksum of their own.
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    record = {**settings, "sizes": sizes, "sha256": hashes, "components": counts}
    write_json(folder / RECORD, record)
    return paths


def _make(asked: Embedded, folder: Path, say: Callable[[str], None]) -> None:
    from gesso.data.store.build import build
    from gesso.data.tokenizers.load import (
        load_tokenizer,
        train_bpe,
        train_sentencepiece,
        train_wordpiece,
        train_words,
    )

    say("embedded corpus: collecting Python's own sources and documentation")
    paths = write_embedded(folder / "corpus", megabytes=asked.megabytes)
    made = folder / asked.kind
    if asked.kind == "bytes":
        tokenizer = load_tokenizer("bytes")
    else:
        say(f"embedded corpus: training a {asked.kind} tokenizer with {VOCAB_SIZE} ids")
        texts = _first_bytes((text for path in paths for _, text in read_shard(path)), TRAIN_BYTES)
        if asked.kind == "sentencepiece":
            tokenizer = train_sentencepiece(
                texts, vocab_size=VOCAB_SIZE, kind="bpe", folder=made / "tokenizer"
            )
        elif asked.kind == "wordpiece":
            tokenizer = train_wordpiece(texts, vocab_size=VOCAB_SIZE, folder=made / "tokenizer")
        elif asked.kind == "words":
            tokenizer = train_words(texts, classes=VOCAB_SIZE, cap=WORDS, folder=made / "tokenizer")
        else:
            tokenizer = train_bpe(texts, vocab_size=VOCAB_SIZE, folder=made / "tokenizer")
    say("embedded corpus: tokenizing into a store")
    build(
        sources=[str(path) for path in paths],
        folder=made / "store",
        tokenizer=tokenizer,
        holdout=HOLDOUT,
    )
    write_json(made / "complete.json", {"version": VERSION, "tokenizer": tokenizer.fingerprint})
    say(f"embedded corpus: ready in {made / 'store'}")


def _examples(asked: Embedded, folder: Path, say: Callable[[str], None]) -> Path:
    """The store of examples made of the corpus, beside its token store."""
    from gesso.data.embedded.instructions import INSTRUCTIONS, make_instructions
    from gesso.data.embedded.labelled import TASK, make_task
    from gesso.data.instructions.store import is_instruction_store
    from gesso.data.labelled.store import is_task_store

    name, there, make, what = {
        "task": (TASK, is_task_store, make_task, "excerpts to be told apart, as a task store"),
        "instructions": (
            INSTRUCTIONS,
            is_instruction_store,
            make_instructions,
            "instructions, as a store of examples",
        ),
    }[asked.holds]
    made = folder / asked.kind
    if not there(made / name):
        with _lock(folder).wait(say):
            if not there(made / name):
                say(f"embedded corpus: {what}")
                make(write_embedded(folder / "corpus", megabytes=asked.megabytes), made)
    return made / name


def _folder(megabytes: float, cache_folder: str | Path | None) -> Path:
    cache = Path(cache_folder or os.environ.get("GESSO_CACHE") or "~/.cache/gesso").expanduser()
    name = f"v{VERSION}-python{platform.python_version()}-{megabytes:g}mb"
    return cache / "embedded" / name


def _documents() -> Iterator[tuple[str, str]]:
    from gesso.data.embedded.documents import documents

    return documents()


def _distinct(documents: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """Documents without exact duplicates, ordered by a hash of their text: a stable shuffle."""
    by_hash: dict[bytes, tuple[str, str]] = {}
    for component, text in documents:
        by_hash.setdefault(
            hashlib.blake2b(text.encode(), digest_size=16).digest(), (component, text)
        )
    return [by_hash[digest] for digest in sorted(by_hash)]


def _limit(documents: list[tuple[str, str]], megabytes: float) -> list[tuple[str, str]]:
    """As many documents as fit in the limit, in order, each component in its share of the bytes.

    So are the held-out ones of each component, whose share below the shortest of them gives that
    one: a small corpus can be evaluated too.
    """
    from gesso.data.text.documents import is_held_out, text_hash

    if not megabytes:
        return documents
    contents = [text.encode() for _, text in documents]
    share = min(1.0, megabytes * 1e6 / max(1, sum(map(len, contents))))
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, (component, _) in enumerate(documents):
        held_out = is_held_out(text_hash(contents[index]), HOLDOUT)
        groups.setdefault((component, held_out), []).append(index)
    kept: list[int] = []
    for group in groups.values():
        left = share * sum(len(contents[index]) for index in group)
        shortest = min(group, key=lambda index: len(contents[index]))
        if len(contents[shortest]) > left:
            kept.append(shortest)
        for index in group:
            if len(contents[index]) <= left:
                left -= len(contents[index])
                kept.append(index)
    return [documents[index] for index in sorted(kept)]


def _first_bytes(texts: Iterator[str], limit: int) -> Iterator[str]:
    total = 0
    for text in texts:
        yield text
        total += len(text.encode())
        if total >= limit:
            return


def _is_written(folder: Path, settings: dict[str, Any], paths: list[Path]) -> bool:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        sizes = {path.name: path.stat().st_size for path in paths}
    except (OSError, ValueError):
        return False
    return sizes == record.get("sizes") and settings == {
        name: record.get(name) for name in settings
    }


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", what="embedded corpus")


def _path(spec: str) -> Path:
    if "://" in spec:
        from etils import epath

        return epath.Path(spec)  # pyright: ignore[reportReturnType]
    return Path(spec).expanduser()


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
