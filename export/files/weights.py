"""The weights of a folder, wherever in it they lie: one file, shards with an index, old or new."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gesso.export.files.tensors import (
    FolderError,
    Record,
    SafetensorsFile,
    Tensors,
    TensorSpec,
    some,
)
from gesso.export.files.torch import TorchFile

# In the order they are looked for: safetensors first, as every reader does.
_FORMS = (
    ("model.safetensors", SafetensorsFile),
    ("model.safetensors.index.json", SafetensorsFile),
    ("pytorch_model.bin", TorchFile),
    ("pytorch_model.bin.index.json", TorchFile),
)
RECORD = "gesso_export.json"


class Weights:
    """Tensors of one or several files. `read` compares checksums, where our export left them."""

    def __init__(self, files: list[Tensors], checksums: Mapping[str, int]) -> None:
        self._file: dict[str, Tensors] = {}
        self.specs: dict[str, TensorSpec] = {}
        self._checksums = checksums
        for file in files:
            for name, spec in file.specs.items():
                if name in self.specs:
                    both = f"{self.specs[name].file} and in {spec.file}"
                    raise FolderError(
                        f"tensor {name} is in {both}; one of them is of another model"
                    )
                self._file[name], self.specs[name] = file, spec

    def read(self, name: str) -> np.ndarray:
        x = self._file[name].read(name)
        if name in self._checksums and checksum(x) != self._checksums[name]:
            spec = self.specs[name]
            raise FolderError(
                f"{spec.file}: tensor {name} {spec} is not what was exported (its checksum"
                f" differs); copy the folder again, or remove {RECORD} if you changed it yourself"
            )
        return x


def open_weights(folder: Path) -> Weights:
    """The tensors in `folder`. FolderError where there are none, a shard is missing, an index
    leads out of the folder or does not fit its shards, or a file is damaged."""
    for name, reader in _FORMS:
        path = folder / name
        if not path.is_file():
            continue
        checksums = export_record(folder).get("tensors", {})
        if path.suffix == ".json":
            return Weights(_shards(folder, path, reader), checksums)
        return Weights([reader(path)], checksums)
    there = sorted(each.name for each in folder.iterdir())[:8]
    raise FolderError(
        f"{folder} holds no weights: looked for {', '.join(name for name, _ in _FORMS)}; there"
        f" are {', '.join(there) or 'no files'}"
    )


def checksum(x: np.ndarray) -> int:
    """crc32 of an array's bytes in row-major order."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def export_record(folder: Path) -> Record:
    """The record an export of ours left in `folder`; {} if it has none, or another tool's."""
    path = folder / RECORD
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> Record:
    """A file's JSON object. FolderError for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} is not readable JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise FolderError(f"{path} holds a {type(found).__name__}, not a JSON object")
    return found


def _shards(folder: Path, index: Path, reader: type) -> list[Tensors]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FolderError(f"{index} has no weight_map: it is not an index of shards")
    by_file: dict[str, list[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise FolderError(
                f"{index} puts tensor {name} into {file!r}, which is not a file of this folder"
            )
        by_file.setdefault(file, []).append(name)
    missing = {file: names for file, names in by_file.items() if not (folder / file).is_file()}
    if missing:
        told = (f"{file} with {some(names, 3)}" for file, names in missing.items())
        raise FolderError(f"{index} names shards that are not there: {some(told)}")
    files = [reader(folder / file) for file in sorted(by_file)]
    absent = [
        f"{name} in {file}"
        for file, opened in zip(sorted(by_file), files, strict=True)
        for name in by_file[file]
        if name not in opened.specs
    ]
    if absent:
        raise FolderError(f"{index} names tensors that are not there: {some(absent)}")
    return files
