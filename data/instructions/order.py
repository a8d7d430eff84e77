"""The order of instruction examples: every packed row is a pure function of one integer.

Draws come in passes of a fixed number of examples. The examples of a pass are packed best fit, each
cluster in rows of its own, and the rows shuffled; how many rows the earlier passes have is counted
once. docs/instructions.md tells the whole story; docs/data_order.md that of plain text.
"""

import functools
import hashlib
import json
import math
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso.data.config import OrderConfig
from gesso.data.instructions.draws import Draws
from gesso.data.instructions.rows import Kept, fitting, packed, rows_of
from gesso.data.order.eras import Recent, Stopped
from gesso.data.order.mixture import BLOCK
from gesso.data.order.permutation import make_key, permute
from gesso.data.order.resume import check
from gesso.data.order.skips import merged, visited
from gesso.data.store.counts import CountsFile

VERSION = 1
PACKING = "examples/1"
# Enough for best fit to fill rows to 99 %, few enough to be packed in milliseconds.
PASS_EXAMPLES = 8192


@dataclass(frozen=True)
class _Pass:
    """pieces: i64, row by row; first: i64[rows + 1], the first piece of each row; component:
    i32[rows]; tokens: i64[rows], those that are no padding."""

    pieces: np.ndarray
    first: np.ndarray
    component: np.ndarray
    tokens: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.component)


class InstructionOrder:
    """The training rows of a store of instruction examples, numbered from 0 without end.

    The surface of data.order.Order. `components` are the clusters drawn from; a row holds examples
    of one. `cut` says how many examples lose something at this length. Raises ValueError
    (MixtureError for the mixture) for settings that cannot be. Safe to use from several threads.
    """

    waited_seconds = 0.0
    # What a row is proved by when a saved state is resumed.
    _proved: tuple[tuple[str, str], ...] = (
        ("tokens", "<i4"), ("segments", "<i4"), ("lm_weight", "<f4"),
    )  # fmt: skip

    def __init__(self, store: Any, config: OrderConfig) -> None:
        _check_config(config)
        self.store, self.config = store, config
        self.draws = Draws(store, config.mixture, examples=config.examples, seed=config.seed)
        names = [store.tasks.components[task] for task in self.draws.tasks]
        self.components = tuple(sorted(set(names)))
        self._room = config.length - config.overhead
        self._component_of = np.zeros(len(store.tasks.names), np.int64)
        self._component_of[self.draws.tasks] = [self.components.index(name) for name in names]
        examples = int(store.tasks.train[self.draws.tasks].sum())
        self.pass_examples = min(PASS_EXAMPLES, max(64, examples))
        self._skip = merged(config.skip)
        self._passes = Recent(4)
        self._counts = CountsFile(store, name=f"{self._form}.json", form=PACKING)
        self._rows = [0]  # rows before each pass
        self._by_component: list[np.ndarray] = []  # rows of each pass, i64[components]
        self._tokens: list[np.ndarray] = []
        self._lock = threading.Lock()

    @functools.cached_property
    def cut(self) -> dict[str, int]:
        """{"pieces", "prompts", "targets", "tokens"}: renderings that can be drawn, those whose
        prompt or target is cut at this length, and the tokens lost."""
        tasks, each = self.store.tasks, self.store.renderings
        pieces = np.concatenate(
            [tasks.first[t] + np.arange(tasks.train[t] * each) for t in self.draws.tasks]
        )
        heads, lengths = self.store.heads[pieces], self.store.lengths[pieces]
        kept = fitting(heads, lengths, length=self._room)
        return {
            "pieces": len(pieces),
            "prompts": int((kept.head < heads).sum()),
            "targets": int((kept.tail < lengths - heads).sum()),
            "tokens": int((lengths - kept.lengths).sum()),
        }

    def visit(self, start: int, n: int) -> np.ndarray:
        """The n row numbers from `start` on that are not skipped, i64[n]."""
        return visited(start, n, skip=self._skip)

    def rows(self, start: int, n: int) -> dict[str, np.ndarray]:
        """The n rows from `start` on, skipped ranges jumped over; as `take`."""
        return self.take(self.visit(start, n))

    def take(
        self, rows: np.ndarray, *, stop: threading.Event | None = None
    ) -> dict[str, np.ndarray]:
        """These rows (i64[n], any order), of T = config.length tokens each:

        "tokens", "segments" (0 = padding, else the example of the row from 1), "positions" (restart
        at each segment): i32[n, T]; "lm_weight" f32[n, T], what predicting each token counts for;
        "component": i32[n]; "row": i64[n]. Raises Stopped when `stop` is set meanwhile.
        """
        self._count_until(int(rows.max()), stop=stop)
        which = np.searchsorted(self._rows, rows, "right") - 1
        places, pieces, counts = [], [], []
        component = np.empty(len(rows), np.int32)
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            local, held = rows[mine] - self._rows[number], self._pass(number)
            component[mine] = held.component[local]
            count = held.first[local + 1] - held.first[local]
            shift = held.first[local] - (np.cumsum(count) - count)
            pieces.append(held.pieces[np.arange(count.sum()) + np.repeat(shift, count)])
            counts.append(count)
            places.append(mine)
        made = self._laid_out(np.concatenate(pieces), np.concatenate(counts))
        if len(places) > 1:
            made_at = np.argsort(np.concatenate(places))
            made = {name: array[made_at] for name, array in made.items()}
        return made | {"component": component, "row": rows}

    def consumed(self, row: int) -> dict[str, dict[str, Any]]:
        """What lies before `row`: {component: {"rows": int, "epoch": float}}; epoch: how often its
        examples were drawn on average, to within the pass under way."""
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
        """The share of tokens in rows that is padding, of the passes counted so far (at least the
        first)."""
        self._count_until(0)
        held = self._rows[-1] * self.config.length
        return 1 - sum(int(each.sum()) for each in self._tokens) / held

    def padding_by_component(self) -> dict[str, float]:
        """{component: as `padding`}, without the components that had no row so far."""
        self._count_until(0)
        rows, tokens = np.sum(self._by_component, axis=0), np.sum(self._tokens, axis=0)
        return {
            name: float(1 - tokens[c] / (rows[c] * self.config.length))
            for c, name in enumerate(self.components)
            if rows[c]
        }

    def state(self, next_row: int) -> dict[str, Any]:
        """What a checkpoint keeps of the data, as JSON; next_row is the first row not yet used."""
        return self._settings | self._passed(next_row) | {"next_row": int(next_row)}

    def resume(self, state: dict[str, Any]) -> int:
        """The next row of a saved state, after proof that it continues the same order.

        Recomputes what was consumed and the last row's checksum. Raises StateDiffers (ValueError),
        naming the field, what was saved and what is asked for now.
        """
        return check(state, self._settings, self._passed)

    def _used(self, pieces: np.ndarray, kept: Kept) -> np.ndarray:
        """Tokens of each piece in its row, i64[n]."""
        return kept.lengths

    def _laid_out(self, pieces: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        return rows_of(
            self.store,
            pieces,
            counts,
            length=self.config.length,
            room=self._room,
            examples=self.config.examples,
        )

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        config, mixture = self.config, self.draws.mixture.record()
        # Thousands of tasks would fill the checkpoint's record: their counts as one digest.
        digest = hashlib.sha256(json.dumps(mixture, sort_keys=True).encode()).hexdigest()
        shares = dict.fromkeys(self.components, 0.0)
        for task, rate in zip(self.draws.tasks, self.draws.rates, strict=True):
            shares[self.store.tasks.components[task]] += float(rate)
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
            "weigh": config.examples.weigh,
            "prompt_weight": config.examples.prompt_weight,
            "cut": config.examples.cut,
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

    def _passed(self, next_row: int) -> dict[str, Any]:
        # The canary is the last row used; before row 0 there is none.
        canary = None
        if next_row > 0:
            made, crc = self.take(np.array([next_row - 1])), 0
            for name, form in self._proved:
                crc = zlib.crc32(made[name].astype(form).tobytes(), crc)
            canary = {"row": next_row - 1, "crc32": crc}
        return {"consumed": self.consumed(next_row), "canary": canary}

    def _count_until(self, row: int, *, stop: threading.Event | None = None) -> None:
        # Rows of all passes up to the one that holds `row`.
        with self._lock:
            while self._rows[-1] <= row:
                if stop is not None and stop.is_set():
                    raise Stopped("the reader was closed while passes were counted")
                number = len(self._by_component)
                known = self._counts.known(number, self._form)
                if len(known) != len(self.components):
                    known = self._measured(self._pass(number))
                    self._counts.keep(number, self._form, known)
                each = np.array([known[name] for name in self.components], np.int64)
                self._by_component.append(each[:, 0])
                self._tokens.append(each[:, 1])
                self._rows.append(self._rows[-1] + int(each[:, 0].sum()))

    def _measured(self, held: _Pass) -> dict[str, tuple[int, int]]:
        n = len(self.components)
        rows = np.bincount(held.component, minlength=n)
        tokens = np.bincount(held.component, weights=held.tokens, minlength=n)
        return {name: (int(rows[c]), int(tokens[c])) for c, name in enumerate(self.components)}

    def _pass(self, number: int) -> _Pass:
        return self._passes.get(number, functools.partial(self._make_pass, number))

    def _make_pass(self, number: int) -> _Pass:
        draws = np.arange(self.pass_examples) + number * self.pass_examples
        task, pieces = self.draws.locate(draws)
        kept = fitting(self.store.heads[pieces], self.store.lengths[pieces], length=self._room)
        row, component = packed(
            kept.lengths,
            self._component_of[task],
            length=self.config.length,
            overhead=self.config.overhead,
        )
        key = make_key("instruction rows", self.config.seed, number)
        row = permute(row, len(component), key=key)
        shuffled = np.empty(len(component), np.int32)
        shuffled[permute(np.arange(len(component)), len(component), key=key)] = component
        by_row = np.argsort(row, kind="stable")
        count = np.bincount(row, minlength=len(component))
        tokens = np.bincount(row, weights=self._used(pieces, kept), minlength=len(component))
        first = np.concatenate(([0], np.cumsum(count)))
        return _Pass(pieces[by_row], first, shuffled, tokens.astype(np.int64))


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
    for pair in config.skip:
        if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"a skipped range is (first, last + 1) with first < last, not {pair}")
