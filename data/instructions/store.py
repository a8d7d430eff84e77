"""A store of instruction examples, read: tokens, which of them are predicted, by task.

finetune/instructions/build.py writes it; docs/instructions.md describes the files. Every example is
there in several renderings (other templates, other examples in its prompt), made once.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gesso.data.store.errors import StoreDamaged
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer
from gesso.settings.nearest import did_you_mean

FORMAT = 1
RECORD = "instructions.json"
FILES = ("tokens.bin", "targets.bin", "ends.bin", "heads.bin")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The tasks of a store, one entry each, in the store's order.

    names; components: the cluster of each. train, holdout: i64, examples. first: i64, the first
    piece (a task's training examples come first, the renderings of one example side by side).
    """

    names: tuple[str, ...]
    components: tuple[str, ...]
    train: np.ndarray
    holdout: np.ndarray
    first: np.ndarray


def is_instruction_store(folder: str | Path) -> bool:
    """Whether a folder is a store of instruction examples (and a finished one)."""
    return (Path(folder) / RECORD).is_file()


class InstructionStore:
    """A finished folder of examples. Only reads; safe to use from several threads.

    A piece is one rendering of one example: its head, the tokens before the first one predicted,
    and its tail. fingerprint: sha256 over everything the content depends on. Raises ValueError,
    with the nearest name there is, where no such store is, and StoreDamaged.
    """

    complete = True
    earlier_fingerprints: tuple[str, ...] = ()

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not is_instruction_store(self.folder):
            raise ValueError(_not_a_store(self.folder))
        self.record: dict[str, Any] = json.loads((self.folder / RECORD).read_bytes())
        if self.record["format"] != FORMAT:
            raise ValueError(
                f"{self.folder} has format {self.record['format']}, not {FORMAT}: another version"
                " of gesso wrote it; build it again"
            )
        self.fingerprint: str = self.record["fingerprint"]
        self.eos: int = self.record["eos"]
        self.renderings: int = self.record["renderings"]
        tasks = self.record["tasks"]
        self.tasks = Tasks(
            names=tuple(each["name"] for each in tasks),
            components=tuple(each["component"] for each in tasks),
            train=np.array([each["train"] for each in tasks], np.int64),
            holdout=np.array([each["holdout"] for each in tasks], np.int64),
            first=np.array([each["first"] for each in tasks], np.int64),
        )
        self._tokens = self._map("tokens.bin", np.dtype(self.record["dtype"]))
        self._targets = self._map("targets.bin", np.dtype(np.uint8))
        self.ends = self._map("ends.bin", np.dtype("<i8"))
        self.heads = self._map("heads.bin", np.dtype("<i4"))

    @property
    def components(self) -> tuple[str, ...]:
        """The clusters, sorted."""
        return tuple(sorted(set(self.tasks.components)))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the store was made with. Raises ValueError if the copy is damaged."""
        return load_tokenizer(self.folder / "tokenizer")

    @cached_property
    def lengths(self) -> np.ndarray:
        """i64[pieces]: tokens of each piece, uncut."""
        return np.diff(self.ends, prepend=0)

    def totals(self) -> dict[str, dict[str, dict[str, int]]]:
        """{component: {split: {"documents", "tokens", "bytes", "words", "targets"}}}: examples, and
        tokens, bytes, words and predicted tokens of one rendering of each."""
        return self.record["totals"]

    def rejects(self) -> dict[str, int]:
        """{reason: records} that were refused; rejects.jsonl has each with its file and line."""
        return self.record["rejects"]

    def duplicates(self) -> float:
        """The share of examples whose fields came before in the same task."""
        return self.record["duplicates"]

    def error(self) -> str:
        """A store is either finished or no store."""
        return ""

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, whether each is predicted u8) of token ranges, joined: starts i64, lengths."""
        shift = starts - (np.cumsum(lengths) - lengths)
        at = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
        return self._tokens[at], self._targets[at]

    def verify(self) -> list[str]:
        """Read everything again. What is wrong, a line each; an empty list proves the store."""
        problems = []
        for name in FILES:
            with (self.folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.record["files"][name]["sha256"]:
                problems.append(f"{self.folder / name}: the content has changed; build it again")
        return problems

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        path, size = self.folder / name, self.record["files"][name]["bytes"]
        found = path.stat().st_size if path.exists() else -1
        if found != size:
            raise StoreDamaged(f"{path}: {found} bytes, its record says {size}; build it again")
        # A plain array over the mapping: slices of np.memmap itself are five times slower.
        return np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)


def _not_a_store(folder: Path) -> str:
    parent = folder.parent
    beside = [each.parent.name for each in parent.glob(f"*/{RECORD}")] if parent.is_dir() else []
    hint = did_you_mean(folder.name, beside, show=lambda name: str(parent / name))
    return (
        f"there is no finished store of instruction examples at {folder}{hint} (gesso instructions"
        " build makes one)"
    )
