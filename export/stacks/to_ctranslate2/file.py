"""CTranslate2's model.bin, variable by variable, written and read.

A word: its length with the closing zero (u16), the bytes, the zero. A variable: its name, its rank
(u8), its dims (u32 each), its type (u8), its size in bytes (u32), the bytes. All little-endian.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from gesso.export.files.tensors import FolderError, TensorSpec, damage

# By their number in the file.
DTYPES = [
    np.dtype(each)
    for each in (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)
]


def write_word(f: BinaryIO, word: str) -> None:
    spelled = word.encode() + b"\0"
    f.write(struct.pack("<H", len(spelled)) + spelled)


def write_variable(f: BinaryIO, name: str, x: np.ndarray) -> None:
    """x: an array of one of DTYPES; a setting is one without dims."""
    write_word(f, name)
    f.write(struct.pack(f"<B{x.ndim}IBI", x.ndim, *x.shape, DTYPES.index(x.dtype), x.nbytes))
    f.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


class CTranslate2File:
    """The variables of a model.bin, for export.tables.tables; settings are in `settings`.

    Raises FolderError for a file that ends early or is something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.specs: dict[str, TensorSpec] = {}
        self.settings: dict[str, float] = {}
        self.aliases: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        try:
            with path.open("rb") as f:
                self._read(f)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise damage(path, [f"it is not a model.bin ({error})"]) from None

    def read(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        count = math.prod(spec.shape)
        x = np.fromfile(self._path, spec.dtype, count=count, offset=self._offsets[name])
        if x.size != count:
            raise damage(self._path, [f"{name} ends after {x.size} of {count} values"])
        return x.reshape(spec.shape)

    def _read(self, f: BinaryIO) -> None:
        (version,) = _take(f, "I")
        if version != 6:
            raise FolderError(f"{self._path} is of version {version}, and 6 is known")
        self.name = _word(f)
        self.revision, count = _take(f, "II")
        for _ in range(count):
            name = _word(f)
            (rank,) = _take(f, "B")
            shape = _take(f, f"{rank}I")
            kind, size = _take(f, "BI")
            if rank:
                self.specs[name] = TensorSpec(DTYPES[kind], shape, self._path.name)
                self._offsets[name] = f.tell()
                f.seek(size, 1)
            else:
                value = np.frombuffer(f.read(size), DTYPES[kind])[0]
                self.settings[name] = value.item()
        (count,) = _take(f, "I")
        self.aliases = {_word(f): _word(f) for _ in range(count)}


def _take(f: BinaryIO, what: str) -> tuple[int, ...]:
    return struct.unpack("<" + what, f.read(struct.calcsize("<" + what)))


def _word(f: BinaryIO) -> str:
    (length,) = _take(f, "H")
    spelled = f.read(length)
    if len(spelled) != length or not spelled.endswith(b"\0"):
        raise struct.error(f"a word of {length} bytes is {spelled[:40]!r}")
    return spelled[:-1].decode()
