"""A store of labelled examples, read: texts as tokens, and their targets.

finetune/labelled/build.py makes it (writer.py writes it); docs/tasks.md describes the files.
Nothing is cut in it: how much of an example a row holds is decided where rows are made.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gesso.data.store.base import Split, Totals
from gesso.data.store.examples import ExampleStore

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


class TaskStore(ExampleStore):
    """A finished folder of labelled examples of one task.

    kind: "classify", "regress", "tag", "qa". labels: the names of the labels or tags, by id; () of
    the others. texts: 1 or 2 to an example (qa: question, context). count: {"train", "holdout"}:
    examples; those for training come first. leaves: {name: array}, see LEAVES: labels; tags, of a
    word's first token, -1 elsewhere; answers, the first and last token of the context, -1 for none;
    characters of the context that a token's word begins and ends at, -1 in questions.
    lengths, starts: i64[examples, texts], in tokens. components: the task alone.
    """

    RECORD, FORMAT = RECORD, FORMAT
    WHAT, MADE_BY = "task store", "gesso task build"
    holds = "task"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.kind: Kind = self.record["kind"]
        self.name: str = self.record["name"]
        self.labels: tuple[str, ...] = tuple(self.record["labels"])
        self.texts: int = self.record["texts"]
        self.count: dict[str, int] = self.record["count"]
        self._tokens = self._map("tokens.bin", self.record["dtype"])
        ends = self._map("ends.bin", "<i8")
        self.lengths = np.diff(ends, prepend=0).reshape(-1, self.texts)
        self.starts = ends.reshape(-1, self.texts) - self.lengths
        self.leaves: dict[str, np.ndarray] = {}
        for name, (dtype, _, each) in LEAVES[self.kind].items():
            leaf = self._map(f"{name}.bin", dtype)
            self.leaves[name] = leaf.reshape(-1, each) if each > 1 else leaf

    @property
    def components(self) -> tuple[str, ...]:
        return (self.name,)

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

    def totals(self) -> Totals:
        """Units: "documents" (examples), "tokens", "bytes"."""
        return {self.name: self.record["totals"]}
