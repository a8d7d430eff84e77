"""The shards of the embedded corpus: how they are written and read."""

import json
from collections.abc import Iterator
from pathlib import Path

# Part of the cache's folder name: raised when the documents, tokenizers or store settings change.
VERSION = 3


# Components are small (LanguageReference has about 80 documents), so more is held out than usual.
HOLDOUT = 0.1


def read_shard(path: Path) -> Iterator[tuple[str, str]]:
    """(component, text) of each document of a shard that `write_embedded` wrote."""
    import pyarrow

    with pyarrow.CompressedInputStream(str(path), "zstd") as stream:
        # \n alone ends a line of JSON; splitlines would also split at U+2028.
        for line in stream.read().split(b"\n"):
            if line:
                document = json.loads(line)
                yield document["meta"]["pile_set_name"], document["text"]


def write_shard(path: Path, documents: list[tuple[str, str]]) -> None:
    import pyarrow

    temporary = path.with_name(path.name + ".tmp")
    with pyarrow.CompressedOutputStream(str(temporary), "zstd") as stream:
        for component, text in documents:
            record = {"text": text, "meta": {"pile_set_name": component}}
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    temporary.replace(path)
