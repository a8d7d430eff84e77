"""pytorch_model.bin without PyTorch and without running what is in it.

The file is a zip: data.pkl describes the tensors, data/N holds each storage's bytes, and the zip
has a checksum of every one. data.pkl is a pickle, a program for a small machine; this reader lets
that machine call nothing but the builders of tensors below, which only write down where a tensor
lies. Anything else it names is refused, unread.
"""

import contextlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from export.tensor_files import FolderError, TensorSpec, damaged

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# A description of tensors, not their values: 100 MB would be millions of tensors.
_DESCRIPTION_LIMIT = 100_000_000


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    entry: str
    count: int


@dataclass(frozen=True)
class _Stored:
    """A tensor: `shape` values of a storage, `strides` apart, from `offset` on."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """One torch zip file. FolderError for a pickle of anything but tensors, an old-style file,
    a compressed or damaged one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reading(path, "its list of files"):
            if not zipfile.is_zipfile(path):
                raise FolderError(_not_a_zip(path))
            self._zip = zipfile.ZipFile(path)
        found = self._describe()
        self._stored = _tensors(path, found)
        self.specs = {
            name: TensorSpec(each.storage.dtype, each.shape, path.name)
            for name, each in self._stored.items()
        }
        for name, each in self._stored.items():
            self._check(name, each)

    def read(self, name: str) -> np.ndarray:
        stored = self._stored[name]
        storage = stored.storage
        with _reading(self._path, name):
            content = self._zip.read(storage.entry)  # compares the zip's checksum
        values = np.frombuffer(content, storage.dtype)[stored.offset :]
        steps = [each * storage.dtype.itemsize for each in stored.strides]
        return np.lib.stride_tricks.as_strided(values, stored.shape, steps).copy()

    def _describe(self) -> Any:
        entries = {info.filename: info for info in self._zip.infolist()}
        found = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(found) != 1:
            raise FolderError(f"{self._path}: a zip without a data.pkl is no PyTorch checkpoint")
        if entries[found[0]].file_size > _DESCRIPTION_LIMIT:
            raise FolderError(f"{self._path}: {found[0]} is too large for a list of tensors")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise FolderError(f"{self._path} is compressed, which PyTorch never writes")
        top = found[0].split("/")[0]
        with _reading(self._path, found[0]):
            if f"{top}/byteorder" in entries and self._zip.read(f"{top}/byteorder") != b"little":
                raise FolderError(f"{self._path}: its bytes are in big-endian order")
            described = io.BytesIO(self._zip.read(found[0]))
            return _TensorsOnly(described, f"{top}/data", self._path).load()

    def _check(self, name: str, stored: _Stored) -> None:
        storage = stored.storage
        try:
            bytes_there = self._zip.getinfo(storage.entry).file_size
        except KeyError:
            raise damaged(self._path, [f"{name}: {storage.entry} is missing"]) from None
        if bytes_there != storage.count * storage.dtype.itemsize:
            told = f"{storage.entry} has {bytes_there} bytes for {storage.count} {storage.dtype}"
            raise damaged(self._path, [f"{name}: {told}"])
        reach = stored.offset + sum(
            (n - 1) * step for n, step in zip(stored.shape, stored.strides, strict=True)
        )
        if 0 not in stored.shape and reach >= storage.count:
            told = f"reaches value {reach} of {storage.count}"
            raise damaged(self._path, [f"{name} {self.specs[name]} {told}"])


class _TensorsOnly(pickle.Unpickler):
    """An unpickler to whom everything but dicts, numbers, strings and tensors is unknown."""

    def __init__(self, file: Any, folder: str, path: Path) -> None:
        super().__init__(file)
        self._folder, self._path = folder, path

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _BUILDERS:
            return _BUILDERS[module, name]
        raise FolderError(
            f"{self._path} is a pickle that asks for {module}.{name}, which is no tensor: such a"
            " file can run any code, so it is not read; convert it to safetensors where you trust"
            " it"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"a reference to {kind!r} that is no storage")
        return _Storage(dtype, f"{self._folder}/{key}", _natural(count))


class _Names(dict):  # what a file's OrderedDict becomes; torch hangs attributes on it
    pass


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> _Stored:  # torch._utils._rebuild_tensor_v2
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without a storage")
    sizes, steps = tuple(map(_natural, shape)), tuple(map(_natural, strides))
    return _Stored(storage, _natural(offset), sizes, steps)


def _parameter(data: Any, *rest: Any) -> Any:  # torch._utils._rebuild_parameter
    return data


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise pickle.UnpicklingError(f"{value!r} where a size belongs")
    return value


_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Names,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Whatever damaged bytes make zipfile and pickle raise, as one kind of error."""
    try:
        yield
    except FolderError:
        raise
    except (
        *(zipfile.BadZipFile, EOFError, OSError, RuntimeError, struct.error, OverflowError),
        *(pickle.UnpicklingError, AttributeError, TypeError, LookupError, ValueError, ImportError),
    ) as error:
        raise damaged(path, [f"{what}: {error}"]) from None


def _tensors(path: Path, found: Any) -> dict[str, _Stored]:
    if not isinstance(found, dict):
        raise FolderError(f"{path} holds a {type(found).__name__}, not tensors by name")
    wrong = [str(name) for name, each in found.items() if not isinstance(each, _Stored)]
    if wrong:
        raise FolderError(
            f"{path} holds more than tensors by name ({', '.join(wrong[:5])}): a training"
            " checkpoint rather than a model's weights; save the model's state_dict() alone"
        )
    return {str(name): each for name, each in found.items()}


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as f:
        first = f.read(8)
    if first[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return (
            f"{path} is a bare pickle (PyTorch before 1.6, or no PyTorch file at all), which can"
            " only be read by running it; load it where you trust it and save it as safetensors"
        )
    if first.startswith(b"version "):
        return f"{path} is a Git LFS pointer, not the file; `git lfs pull` gets it"
    return f"{path} is no PyTorch checkpoint, or one that is cut off; copy or download it again"
