"""The data order: every training row is a pure function of one integer.

row(i) = f(store, tokenizer, length, overlap, packing, seed, mixture, i). Hosts, devices, batch
sizes, prefetching and restarts choose which rows are made where and when, never what is in them.
docs/data_order.md tells the whole story.
"""

import math
import threading

import numpy as np

from gesso.data.config import ExamplesConfig, OrderConfig
from gesso.data.order.base import Consumption, RowOrder, Rows
from gesso.data.order.companions import Companions, check_documents
from gesso.data.order.eras import FORMAT, Eras, Recent
from gesso.data.order.mixture import BLOCK, Mixture, resolve, train_tokens
from gesso.data.order.pack import assemble_reads, gather
from gesso.data.order.permutation import make_key, permute
from gesso.data.order.resume import DataState
from gesso.data.order.skips import check_ranges
from gesso.data.order.streams import Streams, stretches
from gesso.data.store.base import Era, TextStore

VERSION = 1


class Order(RowOrder):
    """The training rows of a store of plain text, numbered from 0 without end.

    Constructing one checks the settings against the store and reads no tokens. Raises ValueError
    (MixtureError for the mixture) for settings that cannot be. Safe to use from several threads.
    """

    _proof = (("tokens", "<i4"), ("segments", "<i4"), ("positions", "<i4"))

    def __init__(self, store: TextStore, config: OrderConfig) -> None:
        _check_config(config)
        super().__init__(store, config)
        self._text = store
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
        self._shuffles: Recent[tuple[int, int, int], np.ndarray] = Recent(
            2 * len(self.components) + 4
        )
        self._companions: tuple[Companions, ...] = ()
        if config.companions:
            if store.complete:
                check_documents(self.components, store.totals())
            self._companions = tuple(
                Companions(self._open_era, component=name, split="train", seed=config.seed)
                for name in self.components
            )

    @property
    def seconds_waited(self) -> float:
        return self._eras.seconds_waited

    def take(self, rows: np.ndarray, *, stop: threading.Event | None = None) -> Rows:
        """As RowOrder.take. With config.companions
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
        made = assemble_reads(parts, length=self.config.length)
        if others:
            beside = assemble_reads(others, length=self.config.length)
            made |= {f"other_{name}": array for name, array in beside.items()}
        if len(places) > 1:
            made_at = np.argsort(np.concatenate(places))
            made = {name: array[made_at] for name, array in made.items()}
        return made | {"component": component, "row": rows}

    def consumption(self, row: int) -> dict[str, Consumption]:
        """As RowOrder.consumption. "epoch" is exact once all eras of
        the store have been counted, until then an estimate from the tokens that are in the store.
        """
        counts = self.mixture.consumption(row).tolist()
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
        return {name: empty / held for name, (empty, held) in self._eras.padding().items()}

    def _describe(self) -> DataState:
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

    def _epoch_rows(self) -> list[float]:
        # Rows of an epoch per component; estimated from the tokens as long as some
        # era has not been counted.
        known = [self._eras.epoch_rows(c) for c in range(len(self.components))]
        if None not in known:
            return [float(n or 0) for n in known]
        tokens = train_tokens(self._text)
        held = self.config.length - self.config.overhead
        return [tokens.get(name, 0.0) / held for name in self.components]

    def _open_era(self, number: int) -> Era | None:
        return self._text.era(number, wait_seconds=self.config.wait_seconds)

    def _shuffle(self, component: int, *, epoch: int, era: int) -> np.ndarray:
        def make() -> np.ndarray:
            n = self._eras.rows(component, era)
            if isinstance(self.mixture, Streams):
                return stretches(n, streams=int(self.mixture.counts[component]))
            name = self.components[component]
            key = make_key("row", self.config.seed, name, epoch, era)
            return permute(np.arange(n), n, key=key)

        return self._shuffles.get((component, epoch, era), make)


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
    check_ranges(config.skip)
    if config.streams and any((last - first) % config.streams for first, last in config.skip):
        raise ValueError(
            f"rows are read by {config.streams} streams in turn: a skipped range must be a multiple"
            f" of that long, to leave each at its place, not {config.skip}"
        )
