"""Arrays cut into shards of .npz files, as mesh-transformer-jax writes them.

FOLDER/shard_I/K.npz: shard I's part of every leaf of the state, in the order of the tree, without
names, spread over 16 files (https://github.com/kingoflolz/mesh-transformer-jax,
mesh_transformer/checkpoint.py). bfloat16 comes as two bytes of no type.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gesso.export.files.tensors import FolderError, TensorSpec, damage

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# How the shards of a leaf make the whole: parts of a dim, the first alone (all hold the same), or
# their sum (each adds its own to a sum over shards).
Join = int | str


@dataclass(frozen=True)
class _Part:
    """A shard's part of one leaf."""

    path: Path
    member: str
    dtype: np.dtype
    shape: tuple[int, ...]


class ShardedNpz:
    """The leaves called `joins`, in the order of the files, each with how its shards are joined.

    The files may hold one leaf more, the step. FolderError for shards that are missing, hold
    another number of leaves or differ in shape, and for damaged files.
    """

    def __init__(self, folder: Path, joins: Mapping[str, Join]) -> None:
        shards = [_parts(path) for path in _shards(folder)]
        for path, parts in zip(_shards(folder), shards, strict=True):
            if len(parts) - len(joins) not in (0, 1):
                raise FolderError(
                    f"{path} holds {len(parts)} arrays, and a model of this config {len(joins)} and"
                    " the step; is it another config's, or not slimmed (it holds the optimizer)?"
                )
        self._joins = joins
        self._parts = {name: [parts[i] for parts in shards] for i, name in enumerate(joins)}
        self.specs = {name: self._spec(name) for name in joins}

    def read(self, name: str) -> np.ndarray:
        join, spec, parts = self._joins[name], self.specs[name], self._parts[name]
        if join == "first":
            return _read(parts[0])
        if join == "sum":
            total = np.zeros(spec.shape, np.float32)
            for part in parts:
                total += _read(part).astype(np.float32)
            return total
        assert isinstance(join, int)
        x = np.empty(spec.shape, spec.dtype)
        for into, part in zip(np.split(x, len(parts), axis=join), parts, strict=True):
            into[...] = _read(part)
        return x

    def _spec(self, name: str) -> TensorSpec:
        parts, join = self._parts[name], self._joins[name]
        first = parts[0]
        for part in parts:
            if (part.shape, part.dtype) != (first.shape, first.dtype):
                raise FolderError(
                    f"{name} is {first.dtype}{list(first.shape)} in {_place(first.path)} and"
                    f" {part.dtype}{list(part.shape)} in {_place(part.path)}"
                )
        shape = list(first.shape)
        if isinstance(join, int):
            if join >= len(shape):
                raise FolderError(
                    f"{name} in {_place(first.path)} has shape {shape}: not the array it should be"
                )
            shape[join] *= len(parts)
        dtype = np.dtype(np.float32) if join == "sum" else first.dtype
        return TensorSpec(dtype, tuple(shape), _place(first.path))


def _shards(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("shard_*") if path.is_dir()]
    wanted = [folder / f"shard_{i}" for i in range(len(found))]
    if set(found) != set(wanted):
        missing = sorted(path.name for path in set(wanted) - set(found))
        raise FolderError(f"{folder} has {len(found)} shards, but not {', '.join(missing)}")
    return wanted


def _parts(shard: Path) -> list[_Part]:
    """What one shard holds, in the order of its files."""
    found = list(shard.glob("*.npz"))
    wanted = [shard / f"{i}.npz" for i in range(len(found))]
    if set(found) != set(wanted) or not found:
        names = ", ".join(sorted(path.name for path in found)[:6]) or "nothing"
        raise FolderError(f"{shard} should hold 0.npz and on, without a gap; it holds {names}")
    parts: list[_Part] = []
    for path in wanted:
        with _reading(path), zipfile.ZipFile(path) as z:
            members = [info.filename for info in z.infolist()]
            if members != [f"arr_{i}.npy" for i in range(len(members))]:
                raise FolderError(f"{path} holds {', '.join(members[:4])} and not arr_0 and on")
            for info in z.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise FolderError(f"{path} is compressed, which numpy.savez never writes")
                with z.open(info) as f:
                    shape, dtype = _header(path, f)
                    size, whole = math.prod(shape) * dtype.itemsize, info.file_size - f.tell()
                if size != whole:
                    told = f"{info.filename} is {dtype}{list(shape)}, {size} bytes, but has {whole}"
                    raise damage(path, [told])
                parts.append(_Part(path, info.filename, dtype, shape))
    return parts


def _header(path: Path, f: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(f)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise damage(path, [f"an array of version {version}"])
    shape, by_columns, dtype = read[version](f)
    if dtype.hasobject:
        raise FolderError(f"{path} holds Python objects, which are never loaded")
    if by_columns and len(shape) > 1:
        raise FolderError(f"{path} holds an array by columns, which was not written by a mesh")
    return shape, BFLOAT16 if dtype == np.dtype("V2") else dtype


def _read(part: _Part) -> np.ndarray:
    with _reading(part.path), zipfile.ZipFile(part.path) as z, z.open(part.member) as f:
        _header(part.path, f)
        content = f.read()  # to the end, where zipfile compares the checksum
        return np.frombuffer(content, part.dtype).reshape(part.shape)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever damaged bytes make zipfile and numpy raise, as one kind of error."""
    try:
        yield
    except FolderError:
        raise
    except (
        *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, SyntaxError),
        *(LookupError, TypeError, OverflowError, NotImplementedError, UnicodeError),
    ) as error:
        raise damage(path, [f"{_place(path)}: {error}"]) from None


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
