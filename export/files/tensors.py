"""Named tensors in files: what every reader of them offers, and the safetensors reader.

A reader holds the names, types and shapes; a tensor's values are read when they are asked for, so
that no more than one of them is in memory. The safetensors format is documented at
https://huggingface.co/docs/safetensors (a length, a JSON header, the bytes).
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

# The names of safetensors; what else it may hold (8-bit floats, complex) is no weight we know.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# A JSON object.
Record = dict[str, Any]
FLOATS = tuple(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))
# The format's own limit on the JSON header.
_HEADER_LIMIT = 100_000_000


class FolderError(ValueError):
    """A folder that cannot be taken as a checkpoint, or cannot be written. Nothing was touched."""


@dataclass(frozen=True)
class TensorSpec:
    """dtype and shape of a tensor, and the file it lies in."""

    dtype: np.dtype
    shape: tuple[int, ...]
    file: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Tensors(Protocol):
    """specs: what there is, by name. read(name): its values, in a new array."""

    specs: dict[str, TensorSpec]

    def read(self, name: str) -> np.ndarray: ...


class SafetensorsFile:
    """One .safetensors file. FolderError for a header that does not fit the file, byte by byte."""

    def __init__(self, path: Path) -> None:
        self._path = path
        header, start = _header(path)
        self.specs: dict[str, TensorSpec] = {}
        self._offsets: dict[str, int] = {}
        at, problems = 0, []
        entries = ((name, each) for name, each in header.items() if name != "__metadata__")
        for name, entry in sorted(entries, key=_begin):
            spec, begin, end = _entry(path, name, entry)
            size = math.prod(spec.shape) * spec.dtype.itemsize
            if end - begin != size:
                problems.append(f"{name} is {spec}, {size} bytes, but has {end - begin}")
            if begin != at:
                problems.append(f"{name} begins at byte {begin}, where {at} was expected")
            at = end
            self.specs[name], self._offsets[name] = spec, start + begin
        if start + at != (whole := path.stat().st_size):
            last = max(self._offsets, key=self._offsets.__getitem__, default="nothing")
            problems.append(
                f"the tensors up to {last} need {start + at} bytes, the file has {whole}"
            )
        if problems:
            raise damage(path, problems)

    def read(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        count = math.prod(spec.shape)
        x = np.fromfile(self._path, spec.dtype, count=count, offset=self._offsets[name])
        if x.size != count:
            raise damage(self._path, [f"{name} ends after {x.size} of {count} values"])
        return x.reshape(spec.shape)


def damage(path: Path, problems: Iterable[str]) -> FolderError:
    """The error for a file whose bytes cannot be what was written."""
    return FolderError(f"{path} is cut off or damaged: {some(problems)}; copy or download it again")


def some(lines: Iterable[str], most: int = 8) -> str:
    """The first lines joined, and how many more there are."""
    lines = list(lines)
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and where the data starts."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            first = f.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or length > min(size - 8, _HEADER_LIMIT):
                told = f"a header of {length} bytes in a file of {size}"
                if first.startswith(b"version "):
                    told = "it is a Git LFS pointer, not the file (`git lfs pull` gets it)"
                raise damage(path, [told])
            header = json.loads(f.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, FolderError):
            raise
        raise damage(path, [f"its header is not readable ({error})"]) from None
    if not isinstance(header, dict):
        raise damage(path, ["its header is not a JSON object"])
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found


def _begin(item: tuple[str, Any]) -> int:
    try:
        return int(item[1]["data_offsets"][0])
    except (TypeError, KeyError, IndexError, ValueError):
        return 0


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole, dtype = False, ""
    if not whole or not isinstance(dtype, str):
        raise damage(path, [f"{name} has no dtype, shape and place that make sense: {entry}"])
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise FolderError(f"{path}: {name} is of type {dtype}; what can be read: {known}")
    return TensorSpec(DTYPES[dtype], tuple(shape), path.name), begin, end
