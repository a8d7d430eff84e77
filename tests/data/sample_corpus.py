"""Small corpora in every source format, made the same on every call, and ways to compare stores."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from gesso.data.store.build import build
from gesso.data.store.build_report import BuildReport

COMPONENTS = ("Pile-CC", "Wikipedia (en)", "Github")
# Nine ways not to be a document, of which the last two lose nothing.
BAD_LINES = (
    b"{bad",
    b'{"text": "\xff\xfe"}',
    b"[1, 2]",
    b'{"content": "x"}',
    b'{"text": 3}',
    b'{"text": "\\ud800"}',
    b'{"text": NaN}',
    b"   ",
    b'{"text": ""}',
)
BAD_REASONS = (
    "bad_json",
    "invalid_utf8",
    "not_an_object",
    "missing_key",
    "wrong_type",
    "lone_surrogate",
    "wrong_type",
    "blank_record",
    "empty_text",
)


def documents(count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """(text, component): a line separator, other scripts and an exact twin are among them."""
    rng = random.Random(seed)
    words = ["alpha", "beta\n", "γάμμα", "delta\u2028", "épsilon", "x = 1\t", "  ", "終わり"]
    made = []
    for number in range(count):
        text = f"{seed}.{number} " + " ".join(rng.choices(words, k=rng.randrange(1, 60)))
        made.append((text, rng.choice(COMPONENTS)))
    if count > 3:
        made[3] = (made[1][0], "Github")
    return made


def lines(count: int, *, seed: int = 0) -> list[bytes]:
    """The documents as records of The Pile's format, without newlines."""
    return [
        json.dumps({"text": text, "meta": {"pile_set_name": name}}).encode()
        for text, name in documents(count, seed=seed)
    ]


def write_jsonl(path: Path, records: list[bytes]) -> Path:
    """Write records as .jsonl, .jsonl.gz or .jsonl.zst, by the name."""
    content = b"".join(record + b"\n" for record in records)
    if path.suffix == ".zst":
        content = zstandard.compress(content)
    elif path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_parquet(path: Path, made: list[tuple[str, str]], **settings: Any) -> Path:
    meta = [{"pile_set_name": name} for _, name in made]
    table = pa.table({"text": [text for text, _ in made], "meta": meta})
    pq.write_table(table, path, **settings)
    return path


def small_build(sources: Any, folder: Path, **fields: Any) -> BuildReport:
    """A build with parts of a few documents and a large holdout, so that every path is walked."""
    if not isinstance(sources, list):
        sources = [str(sources)]
    settings = {"part_tokens_first": 2000, "part_tokens_cap": 8000, "holdout": 0.2} | fields
    return build(sources=[str(source) for source in sources], folder=folder, **settings)


def tree(folder: Path) -> dict[str, bytes]:
    """{relative path: content} of a store; repairs.json tells its history, not its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "repairs.json"
    }


def texts_of(folder: Path) -> dict[tuple[str, str], list[str]]:
    """{(component, split): texts} read back through the eras; order as in the store."""
    from gesso.data.open import open_store

    store = open_store(folder)
    tokenizer = store.tokenizer()
    found: dict[tuple[str, str], list[str]] = {}
    number = 0
    while (era := store.era(number)) is not None:
        for component in store.components:
            for split in ("train", "holdout"):
                lengths = era.lengths(component, split)
                starts = lengths.cumsum() - lengths
                ids = era.read(component, split, starts, lengths)
                at = 0
                for length in lengths.tolist():
                    document = ids[at : at + length]
                    assert document[-1] == store.eos
                    text = tokenizer.decode(document[:-1])
                    found.setdefault((component, split), []).append(text)
                    at += length
        number += 1
    return found


def committed(folder: Path) -> list[dict[str, Any]]:
    """All commit records, by shard and part."""
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("s*/p*.json"))]
