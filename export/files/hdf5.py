"""Named tensors in an HDF5 file, in which ELMo's weights are published."""
# pyright: reportMissingImports=false

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError, TensorSpec, damage
from gesso.export.files.weights import checksum


class Hdf5File:
    """One .hdf5 file; names are paths inside it ("CNN/W_cnn_0"). FolderError for a file that is
    damaged, or in which a name leads to another file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.specs: dict[str, TensorSpec] = {}
        with self._open() as file:
            # What a callback raises is lost in the C library: it only notes names.
            names: list[str] = []
            file.visit_links(names.append)
            for name in names:
                self._note(name, file)

    def read(self, name: str) -> np.ndarray:
        with self._open(name) as file:
            x = np.empty(self.specs[name].shape, self.specs[name].dtype)
            if x.size:
                file[name].read_direct(x)
            return x

    def _note(self, name: str, file: Any) -> None:
        link = file.get(name, getlink=True)
        if type(link).__name__ != "HardLink":
            to = f"{link.filename if hasattr(link, 'filename') else ''}:{link.path}".lstrip(":")
            raise FolderError(f"{self._path}: {name} is a link to {to} and no tensor of this file")
        found = file[name]
        if not hasattr(found, "shape"):
            return  # a group
        if found.external or found.is_virtual:
            raise FolderError(f"{self._path}: the values of {name} are in another file")
        if found.shape is None or found.dtype.hasobject:
            raise FolderError(f"{self._path}: {name} is not an array of numbers ({found.dtype})")
        dtype = found.dtype.newbyteorder("=")
        self.specs[name] = TensorSpec(dtype, tuple(found.shape), self._path.name)

    @contextlib.contextmanager
    def _open(self, name: str = "") -> Iterator[Any]:
        """Whatever damaged bytes make h5py raise, as one kind of error."""
        try:
            with h5py().File(self._path, "r") as file:
                yield file
        except FolderError:
            raise
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, SystemError) as error:
            with self._path.open("rb") as f:
                if f.read(8) == b"version ":
                    told = "it is a Git LFS pointer, not the file (`git lfs pull` gets it)"
                    raise damage(self._path, [told]) from None
            raise damage(self._path, [f"{name}: {error}" if name else str(error)]) from None


def write_hdf5(path: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, int]:
    """Write tensors, one at a time, as contiguous arrays of their dtype; {name: crc32}."""
    checksums: dict[str, int] = {}
    with h5py().File(path, "w") as file:
        for name, x in tensors:
            file.create_dataset(name, data=x)
            checksums[name] = checksum(x)
    return checksums


def h5py() -> Any:
    """The package. FolderError where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise FolderError(
            "ELMo's weights are HDF5 files, and h5py is not installed: pip install 'gesso[export]'"
        ) from None
    return h5py
