"""Which files a corpus is: source names to shards, in a fixed order.

A shard is what one builder writes one folder from: a JSON-lines or parquet file, all text files of
one source together, or one split of a tensorflow-datasets dataset. `open_reader` (readers.py) reads
one.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from etils import epath

from gesso.data.text.shards import (
    Shard,
    SourceError,
    fallback_component,
    file_size,
    form,
    is_remote,
    missing,
)
from gesso.data.text.tfds import resolve_tfds

_KNOWN = ".jsonl, .jsonl.zst, .jsonl.gz, .txt, .txt.zst, .txt.gz, .parquet, tfds:NAME"
_NAMED = re.compile(r"([\w .()+-]+)=(.+)", re.DOTALL)


def resolve(sources: Iterable[str]) -> tuple[Shard, ...]:
    """The shards of the sources, in order: by source, then by path.

    A folder stands for every file below it whose suffix is known; other files are left alone.
    Raises SourceError for a source that is missing (with the nearest name), empty, of an unknown
    format, or listed twice.
    """
    shards: list[Shard] = []
    for source in sources:
        shards.extend(_resolve_one(source))
    if not shards:
        raise SourceError(f"no sources; give at least one of {_KNOWN}")
    seen: set[tuple[str, str]] = set()
    for shard in shards:
        for path in shard.files:
            if (path, shard.split) in seen:
                raise SourceError(f"{path} is listed twice among the sources")
            seen.add((path, shard.split))
    return tuple(shards)


def read_checksums(path: str) -> dict[str, str]:
    """{file name: sha256} of a file as `sha256sum` writes it. Raises SourceError if it is not."""
    if not epath.Path(path).exists():
        raise missing(path)
    sums = {}
    for number, line in enumerate(epath.Path(path).read_text().splitlines(), 1):
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip())
        if found is None:
            raise SourceError(f"{path}:{number}: expected 'SHA256  FILE', as sha256sum writes")
        sums[found[2].rsplit("/", 1)[-1]] = found[1].lower()
    return sums


def check_checksums(shard: Shard, sums: dict[str, str]) -> None:
    """Raises SourceError where a shard's file is not listed or has other bytes than listed."""
    for path in shard.files if shard.form != "tfds" else ():
        name = path.rsplit("/", 1)[-1]
        if name not in sums:
            raise SourceError(f"{path} is not in the list of checksums")
        with epath.Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != sums[name]:
            raise SourceError(
                f"{path}: sha256 is {found[:16]}..., the list says {sums[name][:16]}...; "
                "the file is damaged or another version: copy it again"
            )


def _resolve_one(source: str) -> list[Shard]:
    component, path = _split_name(source)
    if path.startswith("tfds:"):
        name, folder, split, size, digest = resolve_tfds(path)
        made = Shard(
            name=name,
            form="tfds",
            files=(folder,),
            size=size,
            digest=digest,
            component=component,
            fallback=component or name.split("/")[0].removeprefix("tfds:"),
            split=split,
        )
        return [made]
    path = path if is_remote(path) else str(Path(path).expanduser())
    files = _expand(path)
    texts = [file for file in files if form(file) == "text"]
    shards = [_shard((file,), component) for file in files if form(file) != "text"]
    if texts:
        base = PurePosixPath(path).name
        shards.append(_shard(tuple(texts), component, name=base if len(texts) > 1 else ""))
    return shards


def _split_name(source: str) -> tuple[str, str]:
    """("NAME", "PATH") of NAME=PATH, ("", source) of anything else: existing paths come first."""
    found = _NAMED.fullmatch(source)
    if found is None or (not is_remote(source) and Path(source).exists()):
        return "", source
    return found[1].strip(), found[2]


def _expand(path: str) -> list[str]:
    root = epath.Path(path)
    if any(letter in path for letter in "*?[") and not (not is_remote(path) and root.exists()):
        files = _glob(path)
        if not files:
            folder = epath.Path(_folder_before_wildcard(path) or ".")
            if not folder.exists():
                raise missing(str(folder))
            names = sorted(entry.name for entry in folder.iterdir())
            raise SourceError(
                f"nothing matches {path}; {folder} holds {', '.join(names[:8]) or 'nothing'}"
            )
        unknown = [file for file in files if form(file) is None]
        if unknown:
            raise SourceError(f"{unknown[0]}: cannot tell its format; known: {_KNOWN}")
        return files
    if not root.exists():
        raise missing(path)
    if root.is_dir():
        files = [file for file in _walk(root) if form(file) is not None]
        if not files:
            names = sorted(entry.name for entry in root.iterdir())
            raise SourceError(
                f"{path}: no file in it has a known format ({_KNOWN}); "
                f"it holds {', '.join(names[:8]) or 'nothing'}"
            )
        return files
    if form(path) is None:
        raise SourceError(f"{path}: cannot tell its format; known: {_KNOWN}")
    return [path]


def _glob(pattern: str) -> list[str]:
    """Files, sorted; hidden ones and those in hidden folders are left out."""
    fixed = _folder_before_wildcard(pattern)
    root = (epath.Path if is_remote(pattern) else Path)(fixed or ".")
    if is_remote(pattern) and "**" in pattern:
        raise SourceError(f"{pattern}: ** is for local paths; name the folder, or use *")
    found = []
    for path in root.glob(pattern[len(fixed) :].lstrip("/")):
        if not _is_hidden(path.relative_to(root)) and not path.is_dir():
            found.append(str(path))
    return sorted(found)


def _walk(folder: Any) -> list[str]:
    """All files below a folder, sorted; hidden ones are left out."""
    found = []
    for path in folder.iterdir():
        if not path.name.startswith("."):
            found.extend(_walk(path) if path.is_dir() else [str(path)])
    return sorted(found)


def _is_hidden(path: Any) -> bool:
    return any(name.startswith(".") for name in path.parts)


def _folder_before_wildcard(pattern: str) -> str:
    """The folder in front of a pattern's first wildcard; "" for the current one."""
    before = re.split(r"[*?\[]", pattern)[0]
    folder, slash, _ = before.rpartition("/")
    return folder or slash


def _shard(files: tuple[str, ...], component: str, *, name: str = "") -> Shard:
    names = [file.rsplit("/", 1)[-1] for file in files]
    sizes = [file_size(file) for file in files]
    listing = "".join(f"{name}\0{size}\n" for name, size in zip(names, sizes, strict=True))
    kind = form(files[0])
    assert kind is not None
    return Shard(
        name=name or names[0],
        form=kind,
        files=files,
        size=sum(sizes),
        digest=hashlib.sha256(listing.encode()).hexdigest(),
        component=component,
        fallback=component or fallback_component(name or names[0]),
    )
