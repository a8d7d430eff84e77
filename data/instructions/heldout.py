"""The held-out examples of a cluster as rows: packed once, the same for every run."""

from typing import Any

import numpy as np

from gesso.data.config import ExamplesConfig
from gesso.data.instructions.rows import fitting, packed, rows_of


class InstructionHeldout:
    """len() rows; `rows(start, n)` as InstructionOrder.rows gives them ("row" counts from 0).

    Every held-out example of the component's tasks is in it once, in its first rendering, each
    target token with weight 1. Raises ValueError for an unknown component or a length below 2.
    """

    def __init__(self, store: Any, component: str, *, length: int, overhead: int) -> None:
        if component not in store.components:
            raise ValueError(f"component {component!r} is not in the store: {store.components}")
        if length - overhead < 2:
            raise ValueError(f"a row needs at least 2 tokens, not length {length - overhead}")
        self._store, self._length, self._room = store, length, length - overhead
        self._index = store.components.index(component)
        tasks = store.tasks
        mine = [t for t, name in enumerate(tasks.components) if name == component]
        examples = [tasks.train[t] + np.arange(tasks.holdout[t]) for t in mine]
        pieces = np.concatenate(
            [tasks.first[t] + e * store.renderings for t, e in zip(mine, examples, strict=True)]
        )
        kept = fitting(store.heads[pieces], store.lengths[pieces], length=self._room)
        row, rows = packed(kept.lengths, np.zeros_like(pieces), length=length, overhead=overhead)
        by_row = np.argsort(row, kind="stable")
        self._pieces = pieces[by_row]
        self._count = np.bincount(row, minlength=len(rows))
        self._first = np.concatenate(([0], np.cumsum(self._count)))

    def __len__(self) -> int:
        return len(self._count)

    def rows(self, start: int, n: int) -> dict[str, np.ndarray]:
        """Rows [start, start + n): "tokens", "segments", "positions" i32[n, length], "lm_weight"
        f32[n, length], "component" i32[n] (its index in store.components), "row" i64[n].
        Raises IndexError beyond len()."""
        if start < 0 or n < 1 or start + n > len(self):
            raise IndexError(f"rows [{start}, {start + n}) of {len(self)} held-out rows")
        made = rows_of(
            self._store,
            self._pieces[self._first[start] : self._first[start + n]],
            self._count[start : start + n],
            length=self._length,
            room=self._room,
            examples=ExamplesConfig(),
        )
        component = np.full(n, self._index, np.int32)
        return made | {"component": component, "row": np.arange(start, start + n)}
