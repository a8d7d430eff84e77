"""A shard, the unit of reading: what kind of file it is, and the errors of sources.

sources.py finds shards, readers.py reads them.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from etils import epath

from gesso.data.text.rejects import BuildError
from gesso.settings.nearest import did_you_mean

Form = Literal["jsonl", "text", "parquet", "tfds"]


COMPRESSED = {".zst": "zstd", ".gz": "gzip"}


_FORMS: dict[str, Form] = {".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}


class SourceError(BuildError):
    """A source that is missing, truncated, damaged or not what it was. Names file and place."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One unit of reading.

    name: independent of where the corpus lies, so that a moved corpus is still the same one.
    files: its paths; one, but for text. For tfds: the dataset's folder.
    size: bytes on disk, all files together (tfds: of the split, as its record says).
    digest: sha256 of the files' names and sizes.
    component: set by `NAME=SOURCE`, else "". fallback: for records that name no component.
    split: of a tfds dataset, else "".
    """

    name: str
    form: Form
    files: tuple[str, ...]
    size: int
    digest: str
    component: str
    fallback: str
    split: str = ""


def is_remote(path: str) -> bool:
    """Whether a path names another file system: gs://, s3://, ..."""
    return "://" in path


def file_size(path: str) -> int:
    """Bytes of a local or remote file."""
    return epath.Path(path).stat().length if is_remote(path) else Path(path).stat().st_size


def missing(path: str) -> SourceError:
    """The error for a path that does not exist, with the nearest name that does."""
    parent = epath.Path(path).parent
    if not parent.exists():
        return SourceError(f"{path} does not exist, and neither does its folder {parent}")
    names = sorted(entry.name for entry in parent.iterdir())
    hint = did_you_mean(
        epath.Path(path).name,
        names,
        cutoff=0.5,
        show=lambda name: str(parent / name),
        otherwise=f"{parent} holds {', '.join(names[:8]) or 'nothing'}",
    )
    return SourceError(f"{path} does not exist{hint}")


def codec(path: str) -> str | None:
    """pyarrow's name for a file's compression, or None."""
    return COMPRESSED.get(PurePosixPath(path).suffix)


def form(path: str) -> Form | None:
    """How a file is read, by its suffix; None for unknown ones."""
    name = PurePosixPath(path)
    if name.suffix not in COMPRESSED:
        return _FORMS.get(name.suffix)
    inner = PurePosixPath(name.stem).suffix
    return None if inner == ".parquet" else _FORMS.get(inner)


def fallback_component(path: str) -> str:
    """The component of a file's records that name none: its stem without shard numbers.

    `wiki.jsonl.zst` and `wiki-00001-of-00010.parquet` give "wiki", `00.jsonl.zst` gives "default".
    """
    stem = path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    stem = re.sub(r"[-_]?\d+[-_]of[-_]\d+$", "", stem)
    return "default" if not stem or stem.isdigit() else stem
