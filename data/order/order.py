"""The data order: every training row is a pure function of one integer.

row(i) = f(store, tokenizer, length, overlap, packing, seed, mixture, i). Hosts, devices, batch
sizes, prefetching and restarts choose which rows are made where and when, never what is in them.
docs/data_order.md tells the whole story.
"""

import functools
import math
import threading
import zlib
from typing import Any

import numpy as np

from gesso.data.config import ExamplesConfig, OrderConfig
from gesso.data.order.companions import Companions, check_documents
from gesso.data.order.eras import FORMAT, Eras, Recent
from gesso.data.order.mixture import BLOCK, Mixture, resolve, train_tokens
from gesso.data.order.pack import assembled, gather
from gesso.data.order.permutation import make_key, permute
from gesso.data.order.resume import check
from gesso.data.order.skips import merged, visited
from gesso.data.order.streams import Streams, stretches

VERSION = 1


class Order:
    """The training rows of a store, numbered from 0 without end.

    Constructing one checks the settings against the store and reads no tokens. Raises ValueError
    (MixtureError for the mixture) for settings that cannot be. Safe to use from several threads.
    """

    def __init__(self, store: Any, config: OrderConfig) -> None:
        _check_config(config)
        self.store, self.config = store, config
        segments = resolve(config.mixture, store)
        self.mixture: Mixture | Streams = (
            Streams(segments, streams=config.streams)
            if config.streams
            else Mixture(segments, seed=config.seed)
        )
        self.components = self.mixture.components
        self._eras = Eras(
            store,
            components=self.components,
            length=config.length,
            overlap=config.overlap,
            packing=config.packing,
            wait_seconds=config.wait_seconds,
            overhead=config.overhead,
        )
        self._shuffles = Recent(2 * len(self.components) + 4)
        self._skip = merged(config.skip)
        self._companions: tuple[Companions, ...] = ()
        if config.companions:
            if store.complete:
                check_documents(self.components, store.totals())
            self._companions = tuple(
                Companions(self._open_era, component=name, split="train", seed=config.seed)
                for name in self.components
            )

    @property
    def waited_seconds(self) -> float:
        """Time spent so far waiting for a builder that was behind."""
        return self._eras.waited_seconds

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

        "tokens", "segments" (0 = padding, else the piece of the row from 1), "positions" (restart
        at each segment): i32[n, T]; "component": i32[n]; "row": i64[n]. With config.companions
        also "other_tokens", "other_segments" and "other_positions": segment s of a row there is
        text of another document than segment s of its own, no longer than that.
        Waits for a store that is being built: StoreBehind after config.wait_seconds, BuildFailed as
        soon as the builder failed, Stopped when `stop` is set meanwhile.
        """
        component, index = self.mixture.locate(rows)
        places, parts, others = [], [], []
        for c in np.unique(component).tolist():
            mine = np.flatnonzero(component == c)
            epoch, era, local = self._eras.locate(c, index[mine], stop=stop)
            for e, k in sorted(set(zip(epoch.tolist(), era.tolist(), strict=True))):
                here = (epoch == e) & (era == k)
                plan, source = self._eras.plan(c, k)
                shuffled = self._shuffle(c, epoch=e, era=k)[local[here]]
                starts, lengths, count = gather(plan, shuffled)
                tokens = source.read(self.components[c], "train", starts, lengths)
                places.append(mine[here])
                parts.append((tokens, lengths, count))
                if self._companions:
                    numbers = rows[mine[here]]
                    beside = self._companions[c].beside(k, numbers, starts, lengths, count)
                    others.append((*beside, count))
        made = assembled(parts, length=self.config.length)
        if others:
            beside = assembled(others, length=self.config.length)
            made |= {f"other_{name}": array for name, array in beside.items()}
        if len(places) > 1:
            made_at = np.argsort(np.concatenate(places))
            made = {name: array[made_at] for name, array in made.items()}
        return made | {"component": component, "row": rows}

    def consumed(self, row: int) -> dict[str, dict[str, Any]]:
        """What lies before `row`: {component: {"rows": int, "epoch": float}}.

        Rows in skipped ranges count: the cursors pass over them. "epoch" is exact once all eras of
        the store have been counted, until then an estimate from the tokens that are in the store.
        """
        counts = self.mixture.consumed(row).tolist()
        epochs = self._epoch_rows()
        return {
            name: {"rows": counts[c], "epoch": counts[c] / epochs[c] if epochs[c] else 0.0}
            for c, name in enumerate(self.components)
        }

    def padding(self) -> float:
        """The share of tokens in rows that is padding, of the eras opened so far and at least the
        first; NaN when that is not built yet."""
        counts = self._eras.padding().values()
        total = sum(held for _, held in counts)
        return sum(empty for empty, _ in counts) / total if total else math.nan

    def padding_by_component(self) -> dict[str, float]:
        """{component: as `padding`}, without the components that had no row so far."""
        return {name: empty / held for name, (empty, held) in self._eras.padding().items()}

    def state(self, next_row: int) -> dict[str, Any]:
        """What a checkpoint keeps of the data, as JSON; next_row is the first row not yet used."""
        return self._settings | self._passed(next_row) | {"next_row": int(next_row)}

    def resume(self, state: dict[str, Any]) -> int:
        """The next row of a saved state, after proof that it continues the same order.

        Recomputes what was consumed and the last row's checksum. A mixture change or a skipped
        range at or after the saved row may be new; anything else that differs is refused. Raises
        StateDiffers (ValueError), naming the field, what was saved and what is asked for now.
        """
        # A store whose damaged source was repaired has another fingerprint and all the old parts.
        settings = self._settings
        if state.get("store") in [{"fingerprint": f} for f in self.store.earlier_fingerprints]:
            settings = settings | {"store": state["store"]}
        return check(state, settings, self._passed)

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        config = self.config
        return {
            "version": VERSION,
            "length": config.length,
            "overlap": config.overlap,
            "packing": FORMAT[config.packing],
            "seed": config.seed,
            "block": BLOCK,
            "tokenizer": self.store.tokenizer().fingerprint,
            "store": {"fingerprint": self.store.fingerprint},
            "mixture": self.mixture.record(),
            "skip": self._skip.tolist(),
            # States of before there were these lack them.
            **({"overhead": config.overhead} if config.overhead else {}),
            **({"companions": True} if config.companions else {}),
            **({"streams": config.streams} if config.streams else {}),
        }

    def _passed(self, next_row: int) -> dict[str, Any]:
        # The canary is the last row used; before row 0 there is none.
        canary = None
        if next_row > 0:
            made = self.take(np.array([next_row - 1]))
            canary = {"row": next_row - 1, "crc32": _crc(made)}
        return {"consumed": self.consumed(next_row), "canary": canary}

    def _epoch_rows(self) -> list[float]:
        # Rows of an epoch per component; estimated from the tokens as long as some
        # era has not been counted.
        known = [self._eras.epoch_rows(c) for c in range(len(self.components))]
        if None not in known:
            return [float(n or 0) for n in known]
        tokens = train_tokens(self.store)
        held = self.config.length - self.config.overhead
        return [tokens.get(name, 0.0) / held for name in self.components]

    def _open_era(self, number: int) -> Any:
        return self.store.era(number, wait_seconds=self.config.wait_seconds)

    def _shuffle(self, component: int, *, epoch: int, era: int) -> np.ndarray:
        def make() -> np.ndarray:
            n = self._eras.rows(component, era)
            if isinstance(self.mixture, Streams):
                return stretches(n, streams=int(self.mixture.counts[component]))
            name = self.components[component]
            key = make_key("row", self.config.seed, name, epoch, era)
            return permute(np.arange(n), n, key=key)

        return self._shuffles.get((component, epoch, era), make)


def _crc(made: dict[str, np.ndarray]) -> int:
    crc = 0
    for name in ("tokens", "segments", "positions"):
        crc = zlib.crc32(made[name].astype("<i4").tobytes(), crc)
    return crc


def _check_config(config: OrderConfig) -> None:
    if config.length < 2:
        raise ValueError(f"a row needs at least 2 tokens, not length {config.length}")
    if config.overhead < 0 or config.length - config.overhead < 2:
        raise ValueError(
            f"overhead {config.overhead} leaves {config.length - config.overhead} of a row's"
            f" {config.length} tokens to the text; it needs at least 2"
        )
    if config.companions and config.packing != "best_fit":
        raise ValueError(
            f"pairs need pieces of one document each, which packing {config.packing!r} does not"
            " give; use --data.packing best_fit"
        )
    if config.overlap not in (0, 1):
        raise ValueError(f"overlap is 0 or 1 token, not {config.overlap}")
    if config.packing not in FORMAT:
        raise ValueError(f"packing is one of {', '.join(FORMAT)}, not {config.packing!r}")
    if config.examples != ExamplesConfig():
        raise ValueError("settings of examples have no effect on a token store of plain documents")
    if (config.packing == "stream") != (config.streams > 0):
        raise ValueError(
            f"packing {config.packing!r} and {config.streams} streams: packing stream takes as many"
            " as a batch has rows, the others none (0)"
        )
    if config.wait_seconds < 0:
        raise ValueError(f"wait_seconds must not be negative: {config.wait_seconds}")
    for pair in config.skip:
        if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"a skipped range is (first, last + 1) with first < last, not {pair}")
    if config.streams and any((last - first) % config.streams for first, last in config.skip):
        raise ValueError(
            f"rows are read by {config.streams} streams in turn: a skipped range must be a multiple"
            f" of that long, to leave each at its place, not {config.skip}"
        )
