"""The contract of every order of rows: row i is a pure function of the store, the settings and i.

order.py fulfils it for plain text, passes.py for examples of any kind; `order_of` (data/open.py)
makes the one that a store needs.
"""

import functools
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypedDict

import numpy as np

from gesso.data.config import OrderConfig
from gesso.data.order.resume import DataState, check
from gesso.data.order.skips import merge_ranges, skip_over
from gesso.data.store.base import Store

Rows = dict[str, np.ndarray]


class Consumption(TypedDict):
    """What of a component lies before a row. epoch: how often it was gone through."""

    rows: int
    epoch: float


class RowOrder(ABC):
    """The training rows of a store, numbered from 0 without end. Safe to use from several threads.

    components: the names that a row's "component" counts, in that order.
    """

    components: tuple[str, ...]
    # The arrays of a row whose checksum is kept in a saved state, and their dtypes.
    _proof: ClassVar[tuple[tuple[str, str], ...]]

    def __init__(self, store: Store, config: OrderConfig) -> None:
        self.store, self.config = store, config
        self._skip = merge_ranges(config.skip)

    @property
    def seconds_waited(self) -> float:
        """Time spent so far waiting for a builder that was behind."""
        return 0.0

    @property
    def cut(self) -> Mapping[str, int]:
        """What examples lose at this length, in numbers; empty where no text is cut."""
        return {}

    def visit(self, start: int, n: int) -> np.ndarray:
        """The n row numbers from `start` on that are not skipped, i64[n]."""
        return skip_over(start, n, skip=self._skip)

    def rows(self, start: int, n: int) -> Rows:
        """The n rows from `start` on, skipped ranges jumped over; as `take`."""
        return self.take(self.visit(start, n))

    @abstractmethod
    def take(self, rows: np.ndarray, *, stop: threading.Event | None = None) -> Rows:
        """These rows (i64[n], any order), of T = config.length tokens each:

        "tokens", "segments" (0 = padding, else the piece of the row from 1), "positions" (restart
        at each segment): i32[n, T]; "component": i32[n]; "row": i64[n]; and what the kind of store
        adds. Raises Stopped when `stop` is set before they are made.
        """

    @abstractmethod
    def consumption(self, row: int) -> dict[str, Consumption]:
        """What lies before `row`: {component: {"rows", "epoch"}}.

        Rows in skipped ranges count: the cursors pass over them.
        """

    @abstractmethod
    def padding(self) -> float:
        """The share of tokens in rows that is padding, of the rows counted so far; NaN where there
        are none yet."""

    @abstractmethod
    def padding_by_component(self) -> dict[str, float]:
        """{component: as `padding`}, without the components that had no row so far."""

    def state(self, next_row: int) -> DataState:
        """What a checkpoint keeps of the data, as JSON; next_row is the first row not yet used."""
        return self._settings | self._history(next_row) | {"next_row": int(next_row)}

    def resume(self, state: DataState) -> int:
        """The next row of a saved state, after proof that it continues the same order.

        Recomputes what was consumed and the last row's checksum. A mixture change or a skipped
        range at or after the saved row may be new; anything else that differs is refused. Raises
        StateDiffers (ValueError), naming the field, what was saved and what is asked for now.
        """
        # A store whose damaged source was repaired has another fingerprint and all the old parts.
        settings = self._settings
        if state.get("store") in [{"fingerprint": f} for f in self.store.earlier_fingerprints]:
            settings = settings | {"store": state["store"]}
        return check(state, settings, self._history)

    @functools.cached_property
    def _settings(self) -> DataState:
        return self._describe()  # once: it reads the tokenizer

    @abstractmethod
    def _describe(self) -> DataState:
        """All that fixes the rows and needs none of them."""

    def _history(self, next_row: int) -> DataState:
        # The canary is the last row used; before row 0 there is none.
        canary = None
        if next_row > 0:
            made, crc = self.take(np.array([next_row - 1])), 0
            for name, dtype in self._proof:
                crc = zlib.crc32(made[name].astype(dtype).tobytes(), crc)
            canary = {"row": next_row - 1, "crc32": crc}
        return {"consumed": self.consumption(next_row), "canary": canary}


class HeldoutRows(ABC):
    """The held-out rows of a component, the same for every run of one length."""

    @abstractmethod
    def __len__(self) -> int: ...

    def rows(self, start: int, n: int) -> Rows:
        """Rows [start, start + n) as RowOrder.take gives them; "row" counts from 0, "component" is
        an index into store.components. Raises IndexError beyond len()."""
        if start < 0 or n < 1 or start + n > len(self):
            raise IndexError(f"rows [{start}, {start + n}) of {len(self)} held-out rows")
        return self._make(start, n)

    @abstractmethod
    def _make(self, start: int, n: int) -> Rows:
        """Rows [start, start + n), which exist."""
