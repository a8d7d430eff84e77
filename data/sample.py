"""A sample of the texts of any sources, for training tokenizers and looking at what they do."""

import json
from collections.abc import Iterable, Iterator
from typing import Literal

from gesso.data.embedded.corpus import corpus_shards
from gesso.data.text.readers import open_reader
from gesso.data.text.record import Cursor, Record
from gesso.data.text.shards import Shard, SourceError
from gesso.data.text.sources import resolve

# Longer records are passed over: a vocabulary gains nothing from them.
LONGEST = 16 << 20


def read_texts(
    sources: Iterable[str],
    *,
    text_key: str = "text",
    component_key: str = "meta.pile_set_name",
    text_split: Literal["file", "blank_line", "line"] = "file",
    limit_bytes: int = 0,
) -> Iterator[tuple[str, str]]:
    """(component, text) of documents, the shards taken in turn, so that a limit samples them all.

    sources: as for a build (paths, folders, globs, NAME=PATH, tfds:NAME), or "embedded".
    limit_bytes: stop after so many bytes of UTF-8; 0: everything. Records without a
    document are passed over (a build accounts for them).
    Raises SourceError for a source that is missing or damaged, or has no document at all.
    """
    names = list(sources)
    shards = resolve(_expand(names))
    readers = [
        open_reader(
            shard,
            text_key=text_key,
            component_key=component_key,
            text_split=text_split,
            limit=LONGEST,
        ).records(Cursor())
        for shard in shards
    ]
    turns = list(zip(shards, readers, strict=True))
    total = documents = 0
    while turns:
        for turn in list(turns):
            shard, reader = turn
            record = next(reader, None)
            if record is None:
                turns.remove(turn)
                continue
            found = _document(record, shard, text_key=text_key, component_key=component_key)
            if found is None:
                continue
            yield found
            documents += 1
            total += len(found[1].encode())
            if limit_bytes and total >= limit_bytes:
                return
    if not documents:
        raise SourceError(
            f"no document in {', '.join(names)}: no record has text under {text_key!r}; "
            "name the key that has it"
        )


def _expand(names: list[str]) -> Iterator[str]:
    for name in names:
        if name == "embedded":
            yield from map(str, corpus_shards())
        else:
            yield name


def _document(
    record: Record, shard: Shard, *, text_key: str, component_key: str
) -> tuple[str, str] | None:
    if not record.raw or record.length > LONGEST:
        return None
    try:
        text = record.raw.decode("utf-8")
        component = record.component
        if shard.form == "jsonl":
            content = json.loads(text)
            component = component or _under(content, component_key)
            text = _under(content, text_key)
        text.encode("utf-8")
    except (ValueError, RecursionError):
        return None
    return (component or shard.fallback, text) if text else None


def _under(content: object, key: str) -> str:
    """The string under a dotted key, "" where there is none. Keys may hold dots themselves."""
    if isinstance(content, dict) and key in content:
        content = content[key]
    else:
        for name in key.split("."):
            content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, str) else ""
