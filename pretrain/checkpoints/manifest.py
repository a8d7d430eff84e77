"""What a complete checkpoint consists of: sizes and checksums of its files, written last."""

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gesso.storage.files import sync_tree, write_durably

NAME = "manifest.json"
_FORMAT = 1


# What is kept with a checkpoint beside its arrays: a JSON dict.
Info = dict[str, Any]


class ManifestDamaged(ValueError):
    """A manifest that is missing, unreadable, or not the bytes that were written."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One array of the state. fingerprint: pretrain.checkpoints.fingerprint's 16 hex digits."""

    dtype: str
    shape: tuple[int, ...]
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """files: {path inside the folder: (bytes, crc32)}. leaves: {leaf name: Leaf}. info: the
    caller's JSON dict."""

    step: int
    leaves: dict[str, Leaf]
    info: Info
    files: dict[str, tuple[int, int]] = field(default_factory=dict)


def seal(folder: Path, manifest: Manifest) -> None:
    """Make every file under `folder` durable, then write the manifest of them, durably too."""
    sync_tree(folder)  # Orbax leaves its metadata to the OS
    paths = _files(folder)
    sums = _in_threads(_sum, [folder / path for path in paths])
    body = asdict(manifest) | {"format": _FORMAT, "files": dict(zip(paths, sums, strict=True))}
    text = json.dumps(body, sort_keys=True)
    write_durably(folder / NAME, json.dumps({"crc32": zlib.crc32(text.encode()), "body": text}))


def read(folder: Path) -> Manifest:
    """The manifest of a sealed folder. Raises ManifestDamaged; OSError other than a missing file
    is passed on: it says nothing about the checkpoint."""
    try:
        record = json.loads((folder / NAME).read_bytes())
        text = record["body"]
        if zlib.crc32(text.encode()) != record["crc32"]:
            raise ManifestDamaged(f"{NAME}: checksum differs")
        body = json.loads(text)
        if body["format"] != _FORMAT:
            raise ValueError(f"{folder / NAME} is of format {body['format']}, not {_FORMAT}")
    except FileNotFoundError:
        raise ManifestDamaged(f"{NAME} is missing") from None
    except (KeyError, TypeError, AttributeError, UnicodeError, json.JSONDecodeError) as error:
        raise ManifestDamaged(f"{NAME} is not readable ({type(error).__name__})") from None
    return Manifest(
        step=body["step"],
        leaves={
            name: Leaf(
                dtype=leaf["dtype"], shape=tuple(leaf["shape"]), fingerprint=leaf["fingerprint"]
            )
            for name, leaf in body["leaves"].items()
        },
        info=body["info"],
        files={path: (size, crc) for path, (size, crc) in body["files"].items()},
    )


def damage(folder: Path, manifest: Manifest, *, part: int = 0, parts: int = 1) -> list[str]:
    """What is wrong with the bytes under `folder`, one line per file; empty when nothing is.

    Reads every file once. With `parts` readers, each looks at every parts-th file.
    """
    paths = sorted(manifest.files)[part::parts]
    present = [path for path in paths if (folder / path).is_file()]
    sums = dict(zip(present, _in_threads(_sum, [folder / path for path in present]), strict=True))
    found = []
    for path in paths:
        size, crc = manifest.files[path]
        if path not in sums:
            found.append(f"{path} is missing")
        elif sums[path][0] != size:
            found.append(f"{path} has {sums[path][0]} bytes, not {size}")
        elif sums[path][1] != crc:
            found.append(f"{path} has another checksum")
    return found


def _files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found if path.name != NAME)


def _in_threads(function: Any, items: Sequence[Path]) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(function, items))


def _sum(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb", buffering=0) as f:
        while block := f.read(1 << 22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc
