"""The rows of a task store: data/order/passes.py with items in frames, each item once per epoch."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gesso.data.config import ExamplesConfig, FrameConfig, OrderConfig
from gesso.data.labelled.items import Items, items_of
from gesso.data.labelled.rows import rows_of, sizes
from gesso.data.labelled.store import TaskStore
from gesso.data.order.base import Rows
from gesso.data.order.draws import Tasks
from gesso.data.order.pack import best_fit
from gesso.data.order.passes import ExampleHeldout, ExampleOrder
from gesso.data.order.resume import DataState
from gesso.data.store.base import Split


class TaskOrder(ExampleOrder):
    """The training rows of a task store, numbered from 0 without end.

    Rows are those of data.labelled.rows.rows_of with "component" and "row". Raises ValueError for
    settings that do not fit the task.
    """

    _proof = (("tokens", "<i4"), ("segments", "<i4"))

    def __init__(self, store: TaskStore, config: OrderConfig) -> None:
        if config.frame is None:
            raise ValueError(
                f"{store.folder} holds the examples of a task ({store.kind}): train on it with"
                f" objective {store.kind} (an experiment such as debug-classify)"
            )
        if config.examples != ExamplesConfig():
            raise ValueError("data.examples is for instruction examples; a task store takes none")
        if config.overhead:
            raise ValueError("what an example of a task takes beside its tokens is in its frame")
        self._examples, self._frame = store, config.frame
        self._items = items_of(store, "train", config.frame, length=config.length)
        self._size = sizes(self._items, config.frame, length=config.length)
        source = _Drawn(store.folder, _one_task(store, self._items))
        super().__init__(store, config, source=source)

    @property
    def cut(self) -> Mapping[str, int]:
        """{"examples", "windows", "cut", "tokens"}: the training examples, the windows they are
        read in, how many are cut at this length, and the tokens lost."""
        return self._items.lost

    def _sizes(self, pieces: np.ndarray) -> np.ndarray:
        return self._size[pieces]

    def _tokens_of(self, pieces: np.ndarray) -> np.ndarray:
        return self._items.size[pieces]

    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        store, length = self._examples, self.config.length
        return rows_of(store, self._items, pieces, counts, length=length, frame=self._frame)

    def _describe(self) -> DataState:
        frame = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self._frame).items()
        }
        return super()._describe() | {"frame": frame}


class TaskHeldout(ExampleHeldout):
    """len() rows of a split's examples, each item once, packed as training rows are; `rows(start,
    n)` gives them as TaskOrder.take does. items: "item" numbers these."""

    def __init__(
        self, store: TaskStore, *, length: int, frame: FrameConfig, split: Split = "holdout"
    ) -> None:
        self._store, self._length, self.frame = store, length, frame
        self.items: Items = items_of(store, split, frame, length=length)
        row, _ = best_fit(sizes(self.items, frame, length=length), length=length)
        super().__init__(np.arange(len(row)), row, component=0)

    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        length = self._length
        return rows_of(self._store, self.items, pieces, counts, length=length, frame=self.frame)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A task store as draws see it: one task, its items as pieces of one rendering."""

    folder: Path
    tasks: Tasks
    renderings: int = 1


def _one_task(store: TaskStore, items: Items) -> Tasks:
    return Tasks(
        names=store.components,
        components=store.components,
        train=np.array([len(items)]),
        holdout=np.array([0]),
        first=np.array([0]),
    )
