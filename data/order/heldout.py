"""The held-out rows of a component: packed once, in store order, the same for every run."""

import functools

import numpy as np

from gesso.data.order.base import HeldoutRows, Rows
from gesso.data.order.companions import Companions, NoOtherDocumentError
from gesso.data.order.eras import Recent
from gesso.data.order.pack import Plan, Shape, assemble_reads, gather, make_plan
from gesso.data.store.base import Era, TextStore


class Heldout(HeldoutRows):
    """The held-out documents of a component, packed as training rows are; with companions also
    "other_tokens" and so on, as Order.take."""

    def __init__(
        self, store: TextStore, component: str, *, shape: Shape, eras: int, companions: bool
    ) -> None:
        self.store, self.component, self._shape = store, component, shape
        self._eras = eras
        self._companions = None
        if companions:
            self._companions = Companions(
                self._open_era, component=component, split="holdout", seed=0
            )
        self._plans: Recent[int, tuple[Plan, Era]] = Recent(4)
        counts = []
        while not eras or len(counts) < eras:
            if store.era(len(counts)) is None:
                break
            counts.append(self._plan(len(counts))[0].rows)
        self._first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def __len__(self) -> int:
        return int(self._first[-1])

    def _make(self, start: int, n: int) -> Rows:
        rows = np.arange(start, start + n)
        era = np.searchsorted(self._first, rows, "right") - 1
        parts, others = [], []
        for e in np.unique(era).tolist():
            plan, source = self._plan(e)
            starts, lengths, count = gather(plan, rows[era == e] - self._first[e])
            parts.append((source.read(self.component, "holdout", starts, lengths), lengths, count))
            if self._companions:
                pieces = (rows[era == e], starts, lengths, count)
                others.append((*self._beside(e, *pieces), count))
        made = assemble_reads(parts, length=self._shape["length"])
        if others:
            beside = assemble_reads(others, length=self._shape["length"])
            made |= {f"other_{name}": array for name, array in beside.items()}
        return made | {"component": np.full(n, self._index, np.int32), "row": rows}

    @functools.cached_property
    def _index(self) -> int:
        return sorted(self.store.components).index(self.component)

    def _beside(self, era: int, *pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._companions is not None
        try:
            return self._companions.beside(era, *pieces)
        except NoOtherDocumentError:
            return np.zeros(0, np.uint32), np.zeros(len(pieces[1]), np.int64)

    def _open_era(self, number: int) -> Era | None:
        # Of a store that is being built, only the eras that rows are taken of.
        return self.store.era(number) if not self._eras or number < self._eras else None

    def _plan(self, era: int) -> tuple[Plan, Era]:
        def make() -> tuple[Plan, Era]:
            source = self.store.era(era)
            assert source is not None, "an era that rows were counted of is gone"
            documents = source.lengths(self.component, "holdout")
            return make_plan(documents, **self._shape), source

        return self._plans.get(era, make)
