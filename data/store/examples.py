"""A finished folder of examples, read: a JSON record, arrays beside it, a copy of the tokenizer.

What instructions/store.py and labelled/store.py have in common. The record is written last, so a
folder that has one is whole.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gesso.data.store.base import Store
from gesso.data.store.errors import StoreDamaged
from gesso.settings.nearest import did_you_mean


class ExampleStore(Store):
    """Examples in token files that are mapped into memory.

    record: the content of the record's file. RECORD: its name; FORMAT: the version that is read;
    WHAT: what such a folder is called, and MADE_BY: the command that makes one, for errors.
    Raises ValueError, with the nearest name there is, where no such store is, and StoreDamaged.
    """

    RECORD: ClassVar[str]
    FORMAT: ClassVar[int]
    WHAT: ClassVar[str]
    MADE_BY: ClassVar[str]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / self.RECORD).is_file():
            raise ValueError(self._not_a_store())
        self.record: Mapping[str, Any] = json.loads((self.folder / self.RECORD).read_bytes())
        if self.record["format"] != self.FORMAT:
            raise ValueError(
                f"{self.folder} has format {self.record['format']}, not {self.FORMAT}: another"
                " version of gesso wrote it; build it again"
            )
        self.fingerprint: str = self.record["fingerprint"]
        self.eos: int = self.record["eos"]

    def rejects(self) -> dict[str, int]:
        """{reason: records} that were refused; rejects.jsonl has each with its file and line."""
        return self.record["rejects"]

    def duplicates(self) -> float:
        """The share of examples that came before in the same task."""
        return self.record["duplicates"]

    def verify(self) -> list[str]:
        problems = []
        for name, known in self.record["files"].items():
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{path}: the file is missing; build it again")
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                    problems.append(f"{path}: the content has changed; build it again")
        return problems

    def _map(self, name: str, dtype: str) -> np.ndarray:
        """A file of the record as a read-only array. Raises StoreDamaged if its size is wrong."""
        path, size = self.folder / name, self.record["files"][name]["bytes"]
        found = path.stat().st_size if path.exists() else -1
        if found != size:
            raise StoreDamaged(f"{path}: {found} bytes, its record says {size}; build it again")
        # A plain array over the mapping: slices of np.memmap itself are five times slower.
        # An empty file cannot be mapped.
        return np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)

    def _not_a_store(self) -> str:
        parent = self.folder.parent
        found = parent.glob(f"*/{self.RECORD}") if parent.is_dir() else ()
        hint = did_you_mean(
            self.folder.name,
            [each.parent.name for each in found],
            show=lambda name: str(parent / name),
        )
        return f"there is no {self.WHAT} at {self.folder}{hint} ({self.MADE_BY} makes one)"
