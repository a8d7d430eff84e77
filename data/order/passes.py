"""The order of drawn examples: every packed row is a pure function of one integer.

Draws come in passes of a fixed number of examples. The examples of a pass are packed best fit, each
component in rows of its own, and the rows shuffled; how many rows the earlier passes have is
counted once. instructions/order.py and labelled/order.py say what an example is.
"""

import functools
import hashlib
import json
import math
import threading
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso.data.config import OrderConfig
from gesso.data.order.base import Consumption, HeldoutRows, RowOrder, Rows
from gesso.data.order.draws import Draws, ExampleSource
from gesso.data.order.eras import Recent, Stopped
from gesso.data.order.mixture import BLOCK
from gesso.data.order.pack import best_fit_grouped, ranges
from gesso.data.order.permutation import make_key, permute
from gesso.data.order.resume import DataState
from gesso.data.order.skips import check_ranges
from gesso.data.store.base import Store
from gesso.data.store.counts import CountsFile

VERSION = 1
PACKING = "examples/1"
# Enough for best fit to fill rows to 99 %, few enough to be packed in milliseconds.
PASS_EXAMPLES = 8192


@dataclass(frozen=True)
class _Pass:
    """pieces: i64, row by row; first: i64[rows + 1], the first piece of each row; component:
    i32[rows]; tokens: i64[rows], those that are not padding."""

    pieces: np.ndarray
    first: np.ndarray
    component: np.ndarray
    tokens: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.component)


class ExampleOrder(RowOrder):
    """Rows of drawn examples. `components` are those drawn from; a row holds examples of one.

    source: what is drawn from the store. Raises ValueError (MixtureError for the mixture) for
    settings that cannot be.
    """

    def __init__(self, store: Store, config: OrderConfig, *, source: ExampleSource) -> None:
        _check_config(config)
        super().__init__(store, config)
        self.draws = Draws(source, config.mixture, examples=config.examples, seed=config.seed)
        names = [source.tasks.components[task] for task in self.draws.tasks]
        self.components = tuple(sorted(set(names)))
        self._component_of = np.zeros(len(source.tasks.names), np.int64)
        self._component_of[self.draws.tasks] = [self.components.index(name) for name in names]
        examples = int(source.tasks.train[self.draws.tasks].sum())
        self.pass_examples = min(PASS_EXAMPLES, max(64, examples))
        self._passes: Recent[int, _Pass] = Recent(4)
        self._counts = CountsFile(store, name=f"{self._form}.json", form=PACKING)
        self._rows = [0]  # rows before each pass
        self._by_component: list[np.ndarray] = []  # rows of each pass, i64[components]
        self._tokens: list[np.ndarray] = []
        self._lock = threading.Lock()

    @abstractmethod
    def _sizes(self, pieces: np.ndarray) -> np.ndarray:
        """What each piece takes of a row where rows are packed, i64[n]."""

    def _tokens_of(self, pieces: np.ndarray) -> np.ndarray:
        """Tokens of each piece in its row that are not padding, i64[n]."""
        return self._sizes(pieces)

    @abstractmethod
    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        """Rows out of pieces (i64, row by row; counts i64[n] to a row), without "component" and
        "row"."""

    def take(self, rows: np.ndarray, *, stop: threading.Event | None = None) -> Rows:
        self._count_until(int(rows.max()), stop=stop)
        which = np.searchsorted(self._rows, rows, "right") - 1
        places, pieces, counts = [], [], []
        component = np.empty(len(rows), np.int32)
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            local, held = rows[mine] - self._rows[number], self._pass(number)
            component[mine] = held.component[local]
            count = held.first[local + 1] - held.first[local]
            pieces.append(held.pieces[ranges(held.first[local], count)])
            counts.append(count)
            places.append(mine)
        made = self._lay_out(np.concatenate(pieces), np.concatenate(counts))
        # Rows were made pass by pass: back into the order asked for.
        if len(places) > 1:
            made_at = np.argsort(np.concatenate(places))
            made = {name: array[made_at] for name, array in made.items()}
        return made | {"component": component, "row": rows}

    def consumption(self, row: int) -> dict[str, Consumption]:
        """{component: {"rows": int, "epoch": float}} before `row`; epoch: how often its examples
        were drawn on average, to within the pass under way."""
        self._count_until(row)
        number = int(np.searchsorted(self._rows, row, "right")) - 1
        within, held = row - self._rows[number], self._pass(number)
        counts = sum(self._by_component[:number], np.zeros(len(self.components), np.int64))
        counts = counts + np.bincount(held.component[:within], minlength=len(counts))
        epochs = self.draws.epochs(
            self.pass_examples * number + self.pass_examples * within // held.rows
        )
        return {
            name: {"rows": int(counts[c]), "epoch": epochs[name]}
            for c, name in enumerate(self.components)
        }

    def padding(self) -> float:
        """As RowOrder.padding, of the passes counted so far and at least the first."""
        self._count_until(0)
        held = self._rows[-1] * self.config.length
        return 1 - sum(int(each.sum()) for each in self._tokens) / held

    def padding_by_component(self) -> dict[str, float]:
        self._count_until(0)
        rows, tokens = np.sum(self._by_component, axis=0), np.sum(self._tokens, axis=0)
        return {
            name: float(1 - tokens[c] / (rows[c] * self.config.length))
            for c, name in enumerate(self.components)
            if rows[c]
        }

    @property
    def _example_settings(self) -> Mapping[str, Any]:
        """Settings of this kind of examples that fix the rows, beside those of every kind."""
        return {}

    def _describe(self) -> DataState:
        config, mixture = self.config, self.draws.mixture.record()
        # Thousands of tasks would fill the checkpoint's record: their counts as one digest.
        digest = hashlib.sha256(json.dumps(mixture, sort_keys=True).encode()).hexdigest()
        shares = dict.fromkeys(self.components, 0.0)
        for task, rate in zip(self.draws.tasks, self.draws.rates, strict=True):
            shares[self.components[self._component_of[task]]] += float(rate)
        counts = {name: round(share, 6) for name, share in shares.items()}
        return {
            "version": VERSION,
            "length": config.length,
            "overlap": config.overlap,
            "packing": PACKING,
            "pass_examples": self.pass_examples,
            "seed": config.seed,
            "block": BLOCK,
            "tokenizer": self.store.tokenizer().fingerprint,
            "store": {"fingerprint": self.store.fingerprint},
            "mixture": [{"at": 0, "shares": counts, "tasks": digest}],
            **self._example_settings,
            "skip": self._skip.tolist(),
            **({"overhead": config.overhead} if config.overhead else {}),
        }

    @functools.cached_property
    def _form(self) -> str:
        # What the number of rows of a pass depends on beside the store.
        config, mixture = self.config, self.draws.mixture.record()
        parts = (VERSION, config.length, config.overhead, config.seed, self.pass_examples, mixture)
        if config.frame:
            parts = (*parts, config.frame)
        return "instructions-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _count_until(self, row: int, *, stop: threading.Event | None = None) -> None:
        # Rows of all passes up to the one that holds `row`.
        with self._lock:
            while self._rows[-1] <= row:
                if stop is not None and stop.is_set():
                    raise Stopped("the reader was closed while passes were counted")
                number = len(self._by_component)
                known = self._counts.recall(number, self._form)
                if len(known) != len(self.components):
                    known = self._count(self._pass(number))
                    self._counts.keep(number, self._form, known)
                each = np.array([known[name] for name in self.components], np.int64)
                self._by_component.append(each[:, 0])
                self._tokens.append(each[:, 1])
                self._rows.append(self._rows[-1] + int(each[:, 0].sum()))

    def _count(self, held: _Pass) -> dict[str, tuple[int, int]]:
        """{component: (rows, tokens)} of a pass."""
        n = len(self.components)
        rows = np.bincount(held.component, minlength=n)
        tokens = np.bincount(held.component, weights=held.tokens, minlength=n)
        return {name: (int(rows[c]), int(tokens[c])) for c, name in enumerate(self.components)}

    def _pass(self, number: int) -> _Pass:
        return self._passes.get(number, functools.partial(self._make_pass, number))

    def _make_pass(self, number: int) -> _Pass:
        draws = np.arange(self.pass_examples) + number * self.pass_examples
        task, pieces = self.draws.locate(draws)
        row, component = best_fit_grouped(
            self._sizes(pieces) + self.config.overhead,
            self._component_of[task],
            length=self.config.length,
        )
        key = make_key("instruction rows", self.config.seed, number)
        row = permute(row, len(component), key=key)
        shuffled = np.empty(len(component), np.int32)
        shuffled[permute(np.arange(len(component)), len(component), key=key)] = component
        by_row = np.argsort(row, kind="stable")
        count = np.bincount(row, minlength=len(component))
        tokens = np.bincount(row, weights=self._tokens_of(pieces), minlength=len(component))
        first = np.concatenate(([0], np.cumsum(count)))
        return _Pass(pieces[by_row], first, shuffled, tokens.astype(np.int64))


class ExampleHeldout(HeldoutRows):
    """Held-out pieces packed once, in their own order. component: that of all of these rows."""

    def __init__(self, pieces: np.ndarray, row: np.ndarray, *, component: int) -> None:
        self._pieces = pieces[np.argsort(row, kind="stable")]
        self._count = np.bincount(row)
        self._first = np.concatenate(([0], np.cumsum(self._count)))
        self._component = component

    def __len__(self) -> int:
        return len(self._count)

    @abstractmethod
    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        """As ExampleOrder._lay_out."""

    def _make(self, start: int, n: int) -> Rows:
        pieces = self._pieces[self._first[start] : self._first[start + n]]
        made = self._lay_out(pieces, self._count[start : start + n])
        component = np.full(n, self._component, np.int32)
        return made | {"component": component, "row": np.arange(start, start + n)}


def _check_config(config: OrderConfig) -> None:
    examples = config.examples
    if config.overhead < 0 or config.length - config.overhead < 8:
        raise ValueError(
            f"length {config.length} with overhead {config.overhead} leaves no room for examples"
        )
    if config.companions:
        raise ValueError("instruction examples have no text of other documents beside them")
    if config.packing != "best_fit":
        raise ValueError(f"instruction examples are packed best_fit, not {config.packing!r}")
    if not (examples.prompt_weight >= 0 and math.isfinite(examples.prompt_weight)):
        raise ValueError(f"examples.prompt_weight must be 0 or more, not {examples.prompt_weight}")
    for name, value, known in (
        ("weigh", examples.weigh, ("tokens", "examples")),
        ("cut", examples.cut, ("start", "middle", "end")),
    ):
        if value not in known:
            raise ValueError(f"examples.{name} is one of {', '.join(known)}, not {value!r}")
    check_ranges(config.skip)
