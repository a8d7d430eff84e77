"""Which component each training row is drawn from: exact counts, cursors that never skip or repeat.

Rows come in blocks of 65,536. A block holds a fixed integer number of rows of each component, in a
keyed random order, so where row i comes from and how much of everything was consumed before it
are arithmetic.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from gesso.data.config import MixtureConfig
from gesso.data.order.permutation import make_key, permute
from gesso.data.order.pile import PILE
from gesso.data.store.base import TextStore
from gesso.settings.nearest import did_you_mean

BLOCK = 65_536


class MixtureError(ValueError):
    """The mixture asked for cannot be drawn from this store."""


class SegmentRecord(TypedDict):
    """A mixture in a saved state. at: its first row; counts: rows of each component, of a block (of
    streams: of a batch)."""

    at: int
    counts: dict[str, int]


@dataclass(frozen=True)
class _Segment:
    at: int  # the first row of this mixture
    base: np.ndarray  # i64[components]: rows consumed before it
    counts: np.ndarray  # i64[components]: rows per block


class Mixture:
    """Segments of weights over rows; a later segment continues where the earlier one left off.

    segments: ((first row, {component: weight}), ...), the first at row 0, the rest in order.
    `components` is the sorted union of their names; a component's id is its index there. Raises
    MixtureError for weights that are not positive or rows out of order.
    """

    def __init__(self, segments: tuple[tuple[int, dict[str, float]], ...], *, seed: int) -> None:
        for at, weights in segments:
            _check_weights(weights, where=f"the mixture from row {at}")
        rows = [at for at, _ in segments]
        if rows != sorted(set(rows)) or rows[0] != 0:
            raise MixtureError(f"mixture changes must be at growing rows above 0, not {rows[1:]}")
        self.components = tuple(sorted({name for _, weights in segments for name in weights}))
        self.seed = seed
        self._starts = np.array(rows)
        self._block = functools.lru_cache(maxsize=4)(self._make_block)
        self._segments: list[_Segment] = []
        base = np.zeros(len(self.components), np.int64)
        for at, weights in segments:
            if self._segments:
                base = self.consumption(at)
            counts = apportion(np.array([weights.get(c, 0.0) for c in self.components]))
            self._segments.append(_Segment(at, base, counts))

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (i64[n]) -> (component id i32[n], row number within the component i64[n])."""
        which = np.searchsorted(self._starts, rows, "right") - 1
        block, offset = np.divmod(rows - self._starts[which], BLOCK)
        component = np.empty(len(rows), np.int32)
        index = np.empty(len(rows), np.int64)
        for segment, b in set(zip(which.tolist(), block.tolist(), strict=True)):
            here = (which == segment) & (block == b)
            drawn, rank = self._block(segment, b)
            now = self._segments[segment]
            component[here] = drawn[offset[here]]
            chosen = component[here]
            index[here] = (now.base + b * now.counts)[chosen] + rank[offset[here]]
        return component, index

    def consumption(self, row: int) -> np.ndarray:
        """i64[components]: how many rows of each component lie before `row`."""
        segment = max(k for k, each in enumerate(self._segments) if each.at <= row)
        now = self._segments[segment]
        blocks, rest = divmod(row - now.at, BLOCK)
        partial = self._block(segment, blocks)[0][:rest] if rest else np.zeros(0, np.int32)
        return now.base + blocks * now.counts + np.bincount(partial, minlength=len(now.counts))

    def record(self) -> list[SegmentRecord]:
        """The segments as JSON: [{"at": row, "counts": {component: rows per block}}, ...]."""
        return [
            {
                "at": each.at,
                "counts": {
                    name: int(count)
                    for name, count in zip(self.components, each.counts, strict=True)
                    if count
                },
            }
            for each in self._segments
        ]

    def _make_block(self, segment: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        # The component of every row of a block, and how many of it come earlier in the block.
        now = self._segments[segment]
        key = make_key("mixture", self.seed, now.at, block)
        order = permute(np.arange(BLOCK), BLOCK, key=key)
        drawn = np.repeat(np.arange(len(now.counts), dtype=np.int32), now.counts)[order]
        grouped = np.argsort(drawn, kind="stable")
        rank = np.empty(BLOCK, np.int64)
        rank[grouped] = np.arange(BLOCK) - np.repeat(np.cumsum(now.counts) - now.counts, now.counts)
        return drawn, rank


def apportion(weights: np.ndarray, *, rows: int = BLOCK) -> np.ndarray:
    """Weights f64[n] >= 0 -> rows of a block, i64[n], summing to `rows` (at least n).

    Largest remainders (Hamilton's method); a component with any weight gets at least one row, so
    that a rare one is drawn too often rather than never.
    """
    share = weights / math.fsum(weights) * rows  # fsum: the same on every machine
    counts = np.floor(share).astype(np.int64)
    by_remainder = np.argsort(-(share - counts), kind="stable")
    counts[by_remainder[: rows - counts.sum()]] += 1
    while (missing := (counts == 0) & (weights > 0)).any():
        counts[np.argmax(missing)] = 1
        counts[np.argmax(counts)] -= 1
    return counts


def resolve(config: MixtureConfig, store: TextStore) -> tuple[tuple[int, dict[str, float]], ...]:
    """A MixtureConfig and the store it draws from -> the segments of a Mixture.

    Raises MixtureError for a component that is unknown or has no tokens to train on, settings that
    cannot take effect, and kinds that count tokens of a store that is still being built.
    """
    first = _weights(config, store)
    segments = ((0, first), *((at, dict(weights)) for at, weights in config.changes))
    for at, weights in segments:
        _check_weights(weights, where=f"the mixture from row {at}" if at else "the mixture")
        _check_known(weights, store)
    return segments


def _weights(config: MixtureConfig, store: TextStore) -> dict[str, float]:
    kind, values = config.kind, dict(config.values)
    if config.preset and values:
        raise MixtureError("a mixture takes its values from the preset or from `values`, not both")
    if kind in ("natural", "temperature") and (values or config.preset):
        raise MixtureError(
            f'mixture kind "{kind}" counts tokens itself and takes no values or preset;'
            ' use kind "weights" or "epochs" with them'
        )
    if kind in ("weights", "epochs") and not (values or config.preset):
        raise MixtureError(f'mixture kind "{kind}" needs values: {{component: {kind}}}')
    if config.temperature != 1.0 and kind != "temperature":
        raise MixtureError(f'temperature {config.temperature} has no effect on kind "{kind}"')
    if config.temperature <= 0:
        raise MixtureError(f"temperature must be above 0, not {config.temperature}")
    if kind != "weights" and not store.complete:
        raise MixtureError(
            f'mixture kind "{kind}" counts the tokens of every component, and the store'
            f" {store.folder} is still being built; wait for it, or give kind weights"
        )
    if config.preset:
        values = _preset(config, store)
    if kind == "weights":
        return values
    tokens = train_tokens(store)
    if not tokens:
        raise MixtureError(f"the store {store.folder} has no tokens to train on")
    if kind == "natural":
        return tokens
    if kind == "temperature":
        return {name: n ** (1.0 / config.temperature) for name, n in tokens.items()}
    _check_weights(values, where="the mixture")
    _check_known(values, store)
    return {name: tokens[name] * epochs for name, epochs in values.items()}


def train_tokens(store: TextStore) -> dict[str, float]:
    """{component: tokens to train on}, components without any left out."""
    tokens = {name: splits["train"]["tokens"] for name, splits in store.totals().items()}
    return {name: float(n) for name, n in tokens.items() if n}


def _preset(config: MixtureConfig, store: TextStore) -> dict[str, float]:
    names = set(store.components) if store.complete else set(PILE)
    if extra := names - set(PILE):
        raise MixtureError(
            f"the pile preset does not know these components of the store: {sorted(extra)};"
            " give `values` for all of them instead"
        )
    if config.kind == "epochs":
        return {name: PILE[name].epochs for name in sorted(names)}
    return {name: PILE[name].gibibytes * PILE[name].epochs for name in sorted(names)}


def _check_weights(weights: Mapping[str, float], *, where: str) -> None:
    if not weights:
        raise MixtureError(f"{where} names no component")
    if bad := {name: w for name, w in weights.items() if not 0 < w < float("inf")}:
        raise MixtureError(f"{where} has weights that are not above 0: {bad}; leave those out")


def _check_known(weights: Mapping[str, float], store: TextStore) -> None:
    known = list(store.components)
    trainable = train_tokens(store) if store.complete else {}
    for name in weights:
        cutoff = 0.6 if store.complete else 0.85
        hint = did_you_mean(name, known, cutoff=cutoff)
        # A component may still turn up while the store is built, but hardly under a near-twin name.
        if name not in known and (store.complete or hint):
            raise MixtureError(f"component {name!r} is not in the store (it has {known}){hint}")
        if store.complete and name not in trainable:
            raise MixtureError(f"component {name!r} has no tokens to train on; leave it out")
