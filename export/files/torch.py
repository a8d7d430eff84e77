"""pytorch_model.bin without PyTorch and without running what is in it.

The file is a zip: data.pkl describes the tensors (export.files.torch_pickle), data/N holds each
storage's bytes, and the zip has a checksum of every one.
"""

import contextlib
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError, TensorSpec, damage
from gesso.export.files.torch_pickle import Stored, describe

# A description of tensors, not their values: 100 MB would be millions of tensors.
_DESCRIPTION_LIMIT = 100_000_000


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
            content = self._zip.read(f"{self._data}/{storage.key}")  # compares the zip's checksum
        values = np.frombuffer(content, storage.dtype)[stored.offset :]
        steps = [each * storage.dtype.itemsize for each in stored.strides]
        return np.lib.stride_tricks.as_strided(values, stored.shape, steps).copy()

    def _describe(self) -> Any:
        entries = {info.filename: info for info in self._zip.infolist()}
        found = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(found) != 1:
            raise FolderError(f"{self._path}: a zip without a data.pkl is not a PyTorch checkpoint")
        if entries[found[0]].file_size > _DESCRIPTION_LIMIT:
            raise FolderError(f"{self._path}: {found[0]} is too large for a list of tensors")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise FolderError(f"{self._path} is compressed, which PyTorch never writes")
        top = found[0].split("/")[0]
        with _reading(self._path, found[0]):
            if f"{top}/byteorder" in entries and self._zip.read(f"{top}/byteorder") != b"little":
                raise FolderError(f"{self._path}: its bytes are in big-endian order")
            self._data = f"{top}/data"
            return describe(self._zip.read(found[0]), source=str(self._path))

    def _check(self, name: str, stored: Stored) -> None:
        storage = stored.storage
        entry = f"{self._data}/{storage.key}"
        try:
            bytes_there = self._zip.getinfo(entry).file_size
        except KeyError:
            raise damage(self._path, [f"{name}: {entry} is missing"]) from None
        if bytes_there != storage.count * storage.dtype.itemsize:
            told = f"{entry} has {bytes_there} bytes for {storage.count} {storage.dtype}"
            raise damage(self._path, [f"{name}: {told}"])
        reach = stored.offset + sum(
            (n - 1) * step for n, step in zip(stored.shape, stored.strides, strict=True)
        )
        if 0 not in stored.shape and reach >= storage.count:
            told = f"reaches value {reach} of {storage.count}"
            raise damage(self._path, [f"{name} {self.specs[name]} {told}"])


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Whatever damaged bytes make zipfile and pickletools raise, as one kind of error."""
    try:
        yield
    except FolderError:
        raise
    except (
        *(zipfile.BadZipFile, EOFError, OSError, RuntimeError, struct.error, OverflowError),
        *(AttributeError, TypeError, LookupError, ValueError, StopIteration, RecursionError),
    ) as error:
        raise damage(path, [f"{what}: {error}"]) from None


def _tensors(path: Path, found: Any) -> dict[str, Stored]:
    if not isinstance(found, dict):
        raise FolderError(f"{path} holds a {type(found).__name__}, not tensors by name")
    wrong = [str(name) for name, each in found.items() if not isinstance(each, Stored)]
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
    return f"{path} is not a PyTorch checkpoint, or one that is cut off; copy or download it again"
