"""A store of labelled examples, read: texts as tokens, and what is to be said of them.

finetune/labelled/build.py makes it (data/labelled/writer.py writes it); docs/tasks.md describes the
files.
Nothing is cut in it: how much of an example a row holds is decided where rows are made.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gesso.data.store.base import Split
from gesso.data.store.errors import StoreDamaged
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer
from gesso.settings.nearest import did_you_mean

FORMAT = 1
RECORD = "task.json"
Kind = Literal["classify", "regress", "tag", "qa"]
# What lies beside the tokens, by kind: name -> (dtype, of what there is one: an example or a token,
# numbers of each).
LEAVES: dict[str, dict[str, tuple[str, str, int]]] = {
    "classify": {"labels": ("<i4", "example", 1)},
    "regress": {"labels": ("<f4", "example", 1)},
    "tag": {"tags": ("<i2", "token", 1)},
    "qa": {"answers": ("<i4", "example", 2), "characters": ("<i4", "token", 2)},
}


def is_task_store(folder: str | Path) -> bool:
    """Whether a folder is a (finished) store of labelled examples."""
    return (Path(folder) / RECORD).is_file()


class TaskStore:
    """A finished folder of labelled examples of one task. Only reads; safe to use from several
    threads.

    kind: "classify", "regress", "tag", "qa". labels: the names of the labels or tags, by id; () of
    the others. texts: 1 or 2 to an example (qa: question, context). count: {"train", "holdout"}:
    examples; those for training come first. leaves: {name: array}, see LEAVES: labels; tags, of a
    word's first token, -1 elsewhere; answers, the first and last token of the context, -1 for none;
    characters of the context that a token's word begins and ends at, -1 in questions.
    Raises ValueError, with the nearest name there is, where no such store is, and StoreDamaged.
    """

    complete = True
    earlier_fingerprints: tuple[str, ...] = ()

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not is_task_store(self.folder):
            raise ValueError(_not_a_store(self.folder))
        self.record: dict[str, Any] = json.loads((self.folder / RECORD).read_bytes())
        if self.record["format"] != FORMAT:
            raise ValueError(
                f"{self.folder} has format {self.record['format']}, not {FORMAT}: another version"
                " of gesso wrote it; build it again"
            )
        self.fingerprint: str = self.record["fingerprint"]
        self.eos: int = self.record["eos"]
        self.kind: Kind = self.record["kind"]
        self.name: str = self.record["name"]
        self.labels: tuple[str, ...] = tuple(self.record["labels"])
        self.texts: int = self.record["texts"]
        self.count: dict[str, int] = self.record["count"]
        self._tokens = self._map("tokens.bin", np.dtype(self.record["dtype"]))
        ends = self._map("ends.bin", np.dtype("<i8"))
        self.lengths = np.diff(ends, prepend=0).reshape(-1, self.texts)
        self.starts = ends.reshape(-1, self.texts) - self.lengths
        self.leaves = {}
        for name, (dtype, _, each) in LEAVES[self.kind].items():
            leaf = self._map(f"{name}.bin", np.dtype(dtype))
            self.leaves[name] = leaf.reshape(-1, each) if each > 1 else leaf

    @property
    def components(self) -> tuple[str, ...]:
        """The task alone."""
        return (self.name,)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the store was made with. Raises ValueError if the copy is damaged."""
        return load_tokenizer(self.folder / "tokenizer")

    def examples(self, split: Split) -> np.ndarray:
        """The numbers of a split's examples, i64, in the order of their files."""
        train = self.count["train"]
        return np.arange(train) if split == "train" else train + np.arange(self.count["holdout"])

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """Of each example {"place": file and line, "id"?, "context"?, "answers"?}; the last two of
        held-out questions."""
        lines = (self.folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def read(self, start: int, size: int) -> np.ndarray:
        """Tokens of a range of the store."""
        return self._tokens[start : start + size]

    def totals(self) -> dict[str, dict[str, dict[str, int]]]:
        """{task: {split: {"documents", "tokens", "bytes"}}}: examples, and what is in them."""
        return {self.name: self.record["totals"]}

    def rejects(self) -> dict[str, int]:
        """{reason: records} that were refused; rejects.jsonl has each with its file and line."""
        return self.record["rejects"]

    def duplicates(self) -> float:
        """The share of examples whose texts came before."""
        return self.record["duplicates"]

    def error(self) -> str:
        """A store is either finished or no store."""
        return ""

    def verify(self) -> list[str]:
        """Read everything again. What is wrong, a line each; an empty list proves the store."""
        problems = []
        for name, known in self.record["files"].items():
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                    problems.append(f"{self.folder / name}: the content has changed; build again")
        return problems

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        path, size = self.folder / name, self.record["files"][name]["bytes"]
        found = path.stat().st_size if path.exists() else -1
        if found != size:
            raise StoreDamaged(f"{path}: {found} bytes, its record says {size}; build it again")
        return np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)


def _not_a_store(folder: Path) -> str:
    parent = folder.parent
    beside = [each.parent.name for each in parent.glob(f"*/{RECORD}")] if parent.is_dir() else []
    hint = did_you_mean(folder.name, beside, show=lambda name: str(parent / name))
    return f"there is no task store at {folder}{hint} (gesso task build makes one)"
