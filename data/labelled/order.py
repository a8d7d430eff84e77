"""The rows of a task store: every training row is a pure function of one integer, as those of
instruction examples (data/instructions/order.py), each item once per epoch."""

import dataclasses
import functools
from typing import Any

import numpy as np

from gesso.data.config import ExamplesConfig, FrameConfig, OrderConfig
from gesso.data.instructions.order import InstructionOrder
from gesso.data.instructions.rows import Kept, packed
from gesso.data.instructions.store import Tasks
from gesso.data.labelled.items import Items, items_of
from gesso.data.labelled.rows import rows_of, sizes
from gesso.data.store.base import Split


class TaskOrder(InstructionOrder):
    """The training rows of a task store, numbered from 0 without end.

    The surface of data.order.Order; rows are those of data.labelled.rows.rows_of with "component"
    and "row". `cut` says how many examples lose something at this length. Raises ValueError for
    settings that do not fit the task.
    """

    _proved = (("tokens", "<i4"), ("segments", "<i4"))

    def __init__(self, store: Any, config: OrderConfig) -> None:
        if config.frame is None:
            raise ValueError(
                f"{store.folder} holds the examples of a task ({store.kind}): train on it with"
                f" objective {store.kind} (an experiment such as debug-classify)"
            )
        if config.examples != ExamplesConfig():
            raise ValueError("data.examples is for instruction examples; a task store takes none")
        self._frame: FrameConfig = config.frame
        self._items = items_of(store, "train", config.frame, length=config.length)
        super().__init__(_Pieces(store, self._items, config), config)

    @property
    def cut(self) -> dict[str, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """{"examples", "windows", "cut", "tokens"}: the training examples, the windows they are
        read in, how many are cut at this length, and the tokens lost."""
        return self._items.lost

    def _used(self, pieces: np.ndarray, kept: Kept) -> np.ndarray:
        return self._items.size[pieces]

    def _laid_out(self, pieces: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        store, length = self.store.examples, self.config.length
        return rows_of(store, self._items, pieces, counts, length=length, frame=self._frame)

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        of_instructions = ("weigh", "prompt_weight", "cut")
        kept = {k: v for k, v in super()._settings.items() if k not in of_instructions}
        frame = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self._frame).items()
        }
        return kept | {"frame": frame}


class TaskHeldout:
    """len() rows of a split's examples, each item once, packed as training rows are; `rows(start,
    n)` gives them as TaskOrder.take does. items: "item" numbers these."""

    def __init__(
        self, store: Any, *, length: int, frame: FrameConfig, split: Split = "holdout"
    ) -> None:
        self._store, self._length, self.frame = store, length, frame
        self.items: Items = items_of(store, split, frame, length=length)
        size = sizes(self.items, frame, length=length)
        row, rows = packed(size, np.zeros_like(size), length=length, overhead=0)
        self._pieces = np.argsort(row, kind="stable")
        self._count = np.bincount(row, minlength=len(rows))
        self._first = np.concatenate(([0], np.cumsum(self._count)))

    def __len__(self) -> int:
        return len(self._count)

    def rows(self, start: int, n: int) -> dict[str, np.ndarray]:
        """Rows [start, start + n). Raises IndexError beyond len()."""
        if start < 0 or n < 1 or start + n > len(self):
            raise IndexError(f"rows [{start}, {start + n}) of {len(self)} held-out rows")
        made = rows_of(
            self._store,
            self.items,
            self._pieces[self._first[start] : self._first[start + n]],
            self._count[start : start + n],
            length=self._length,
            frame=self.frame,
        )
        return made | {"component": np.zeros(n, np.int32), "row": np.arange(start, start + n)}


class _Pieces:
    """A task store as InstructionOrder reads stores: one task, its items as pieces."""

    renderings = 1

    def __init__(self, store: Any, items: Items, config: OrderConfig) -> None:
        assert config.frame is not None
        self.examples, self.folder, self.fingerprint = store, store.folder, store.fingerprint
        self.components = store.components
        self.tasks = Tasks(
            names=store.components,
            components=store.components,
            train=np.array([len(items)]),
            holdout=np.array([0]),
            first=np.array([0]),
        )
        # All head and no target: `fitting` keeps it whole.
        self.heads = self.lengths = sizes(items, config.frame, length=config.length)

    def tokenizer(self) -> Any:
        return self.examples.tokenizer()
