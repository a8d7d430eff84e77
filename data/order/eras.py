"""The eras of a store as rows: how many each component has in each, counted once.

Era e is part e of every shard, so its rows do not depend on how much of the store is built. Counts
are kept in a small file beside the store: a run that resumes in era 600 opens one era, not 600.
"""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from gesso.data.order.pack import Packing, Plan, Shape, make_plan, measure
from gesso.data.store.base import Era, TextStore
from gesso.data.store.counts import CountsFile
from gesso.data.store.errors import StoreBehind

# Raise when the rows of data/order/pack.py (stream: or their order) change.
FORMAT = {"best_fit": "best_fit/1", "concat": "concat/1", "stream": "stream/1"}
_SLICE_SECONDS = 0.25  # a waiting thread looks this often whether it was told to stop


Key = TypeVar("Key")
Value = TypeVar("Value")


class Stopped(RuntimeError):
    """The wait for an era was given up because its reader was closed."""


class EmptyComponent(ValueError):
    """A component of the mixture turned out to have no tokens to train on."""


class Eras:
    """Rows of the components of a store, per era. Safe to use from several threads.

    seconds_waited: time spent waiting for a builder that was behind.
    """

    def __init__(
        self,
        store: TextStore,
        *,
        components: Sequence[str],
        length: int,
        overlap: int,
        packing: Packing,
        wait_seconds: float,
        overhead: int = 0,
    ) -> None:
        self.store, self.components = store, tuple(components)
        self.shape = Shape(length=length, overlap=overlap, packing=packing, overhead=overhead)
        self.wait_seconds, self.seconds_waited = wait_seconds, 0.0
        name = f"{packing}-{length}-{overlap}" + (f"-{overhead}" if overhead else "")
        self._counts = CountsFile(store, name=f"{name}.json", form=FORMAT[packing])
        # Replaced as a whole, so that a reader without the lock sees one consistent state.
        self._rows = np.zeros((1, len(self.components)), np.int64)  # cumulative, [eras + 1, c]
        self._tokens = np.zeros(len(self.components), np.int64)
        self._complete = False
        self._lock = threading.Lock()
        self._plans: Recent[tuple[int, int], tuple[Plan, Era]] = Recent(
            2 * len(self.components) + 4
        )

    def locate(
        self, component: int, index: np.ndarray, *, stop: threading.Event | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row numbers of a component (i64[n]) -> (epoch, era, row of the era), i64[n] each.

        Waits for eras that are not built yet. Raises StoreBehind after wait_seconds, BuildFailed at
        once, EmptyComponent, and Stopped when `stop` is set during the wait.
        """
        while not self._complete and self._rows[-1, component] <= index.max():
            self._open_next(stop)
        rows = self._rows[:, component]
        epoch = np.zeros_like(index)
        if rows[-1] <= index.max():
            if not rows[-1]:
                raise EmptyComponent(
                    f"component {self.components[component]!r} has no tokens to train on in the"
                    f" finished store {self.store.folder}; leave it out of the mixture"
                )
            epoch, index = np.divmod(index, rows[-1])
        era = np.searchsorted(rows, index, "right") - 1
        return epoch, era, index - rows[era]

    def rows(self, component: int, era: int) -> int:
        """Rows of a component in an era that `locate` has given."""
        return int(self._rows[era + 1, component] - self._rows[era, component])

    def epoch_rows(self, component: int) -> int | None:
        """Rows of a component in one epoch; None until all eras have been counted."""
        return int(self._rows[-1, component]) if self._complete else None

    def padding(self) -> dict[str, tuple[int, int]]:
        """{component: (tokens of padding, tokens in all)} of the rows counted so far. What pieces
        keep free for the objective does not count as padding.

        Looks at the first era if none was; empty when that is not built yet.
        """
        if len(self._rows) == 1 and not self._complete:
            with contextlib.suppress(StoreBehind):
                self.store.era(0)
                self._open_next(None)
        held = self._rows[-1] * self.shape["length"]
        return {
            name: (int(held[c] - self._tokens[c]), int(held[c]))
            for c, name in enumerate(self.components)
            if held[c]
        }

    def plan(self, component: int, era: int) -> tuple[Plan, Era]:
        """The rows of a component in an era, and the era to read them from."""
        return self._plans.get((component, era), lambda: self._make_plan(component, era))

    def _make_plan(self, component: int, era: int) -> tuple[Plan, Era]:
        name, source = self.components[component], self.store.era(era)
        assert source is not None, "an era that rows were counted of is gone"
        plan = make_plan(source.lengths(name, "train"), **self.shape)
        if plan.rows != self.rows(component, era):
            raise ValueError(
                f"era {era} of {name!r} packs into {plan.rows} rows, but {self._counts.path} says"
                f" {self.rows(component, era)}: the store or that file was edited; delete the file"
                " if the store passes `gesso corpus verify`"
            )
        return plan, source

    def _open_next(self, stop: threading.Event | None) -> None:
        number = len(self._rows) - 1
        era = self._wait(number, stop)
        if era is None:
            self._complete = True
            return
        known = self._counts.recall(number, era.fingerprint)
        for name in self.components:
            if name not in known:
                known[name] = measure(era.lengths(name, "train"), **self.shape)
        self._counts.keep(number, era.fingerprint, known)
        rows, tokens = np.array([known[name] for name in self.components], np.int64).T
        with self._lock:
            if len(self._rows) - 1 == number:  # else another thread was faster
                self._tokens = self._tokens + tokens
                self._rows = np.concatenate([self._rows, self._rows[-1:] + rows])

    def _wait(self, number: int, stop: threading.Event | None) -> Era | None:
        start, patience = time.monotonic(), 0.0
        try:
            while True:
                try:
                    return self.store.era(number, wait_seconds=patience)
                except StoreBehind:
                    left = self.wait_seconds - (time.monotonic() - start)
                    if left <= 0:
                        raise
                    if stop is not None and stop.is_set():
                        raise Stopped(f"gave up waiting for era {number} of the store") from None
                    patience = min(left, _SLICE_SECONDS)
        finally:
            if patience:  # the first look at what is there is not a wait
                self.seconds_waited += time.monotonic() - start


class Recent(Generic[Key, Value]):
    """The `size` values used last, made on demand. Two threads may make the same one at once: it
    is a pure function of its key, and no lock is held while it is made."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, name: Key, make: Callable[[], Value]) -> Value:
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                return self._values[name]
        value = make()
        with self._lock:
            self._values[name] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value
