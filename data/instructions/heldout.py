"""The held-out examples of a cluster as rows: packed once, the same for every run."""

import numpy as np

from gesso.data.config import ExamplesConfig
from gesso.data.instructions.rows import fit, rows_of
from gesso.data.instructions.store import InstructionStore
from gesso.data.order.base import Rows
from gesso.data.order.pack import best_fit, ranges
from gesso.data.order.passes import ExampleHeldout


class InstructionHeldout(ExampleHeldout):
    """len() rows; `rows(start, n)` as InstructionOrder.rows gives them ("row" counts from 0).

    Every held-out example of the component's tasks is in it once, in its first rendering, each
    target token with weight 1. Raises ValueError for an unknown component or a length below 2.
    """

    def __init__(
        self, store: InstructionStore, component: str, *, length: int, overhead: int
    ) -> None:
        if component not in store.components:
            raise ValueError(f"component {component!r} is not in the store: {store.components}")
        if length - overhead < 2:
            raise ValueError(f"a row needs at least 2 tokens, not length {length - overhead}")
        self._store, self._length, self._room = store, length, length - overhead
        tasks = store.tasks
        mine = [t for t, name in enumerate(tasks.components) if name == component]
        count = tasks.holdout[mine]
        examples = ranges(tasks.train[mine], count)
        # Of the renderings of an example, which lie side by side, the first.
        pieces = np.repeat(tasks.first[mine], count) + examples * store.renderings
        kept = fit(store.heads[pieces], store.lengths[pieces], length=self._room)
        row, _ = best_fit(kept.lengths + overhead, length=length)
        super().__init__(pieces, row, component=store.components.index(component))

    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        return rows_of(
            self._store,
            pieces,
            counts,
            length=self._length,
            room=self._room,
            examples=ExamplesConfig(),
        )
