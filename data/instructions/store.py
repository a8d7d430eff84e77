"""A store of instruction examples, read: tokens, which of them are predicted, by task.

finetune/instructions/build.py writes it; docs/instructions.md describes the files. Every example is
there in several renderings (other templates, other examples in its prompt), made once.
"""

from functools import cached_property
from pathlib import Path

import numpy as np

from gesso.data.order.draws import Tasks
from gesso.data.order.pack import ranges
from gesso.data.store.base import Totals
from gesso.data.store.examples import ExampleStore

FORMAT = 1
RECORD = "instructions.json"
FILES = ("tokens.bin", "targets.bin", "ends.bin", "heads.bin")


def is_instruction_store(folder: str | Path) -> bool:
    """Whether a folder is a store of instruction examples (and a finished one)."""
    return (Path(folder) / RECORD).is_file()


class InstructionStore(ExampleStore):
    """A finished folder of instruction examples.

    A piece is one rendering of one example: its head, the tokens before the first one predicted,
    and its tail. ends: i64[pieces], where each ends in the tokens; heads: i32[pieces]; lengths:
    i64[pieces], tokens of each, uncut. components: the clusters of the tasks.
    """

    RECORD, FORMAT = RECORD, FORMAT
    WHAT, MADE_BY = "finished store of instruction examples", "gesso instructions build"
    holds = "instructions"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.renderings: int = self.record["renderings"]
        tasks = self.record["tasks"]
        self.tasks = Tasks(
            names=tuple(each["name"] for each in tasks),
            components=tuple(each["component"] for each in tasks),
            train=np.array([each["train"] for each in tasks], np.int64),
            holdout=np.array([each["holdout"] for each in tasks], np.int64),
            first=np.array([each["first"] for each in tasks], np.int64),
        )
        self._tokens = self._map("tokens.bin", self.record["dtype"])
        self._targets = self._map("targets.bin", "u1")
        self.ends = self._map("ends.bin", "<i8")
        self.heads = self._map("heads.bin", "<i4")

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.tasks.components)))

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def totals(self) -> Totals:
        """Of one rendering of each example; units: "documents" (examples), "tokens", "bytes",
        "words" and "targets", the predicted tokens."""
        return self.record["totals"]

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, whether each is predicted u8) of token ranges, joined: starts i64, lengths."""
        at = ranges(starts, lengths)
        return self._tokens[at], self._targets[at]
