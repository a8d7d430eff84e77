"""Text of another document beside every piece of a row, for objectives that tell the two apart.

Which text is a pure function of the seed, the row's number and the piece's number in the row.
"""

from collections.abc import Callable

import numpy as np

from gesso.data.order.counter_hash import draw
from gesso.data.order.eras import Recent
from gesso.data.order.permutation import make_key
from gesso.data.store.base import Era, Split, Totals


class NoOtherDocumentError(ValueError):
    """A component with a single document was asked for text of another one."""


class Companions:
    """Other documents' text for the rows of one component and split.

    open_era: number -> the era, or None after the last; it may wait, or raise what era() raises.
    """

    def __init__(
        self, open_era: Callable[[int], Era | None], *, component: str, split: Split, seed: int
    ) -> None:
        self._open_era, self._component = open_era, component
        self._split: Split = split
        self._key = make_key("companion", seed, component)[0]
        self._ends: Recent[int, tuple[Era, np.ndarray]] = Recent(4)

    def beside(
        self,
        era: int,
        rows: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        count: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, lengths i64[pieces]): for each piece a run of at most its own length from
        another document, all runs joined.

        rows: i64[n], their numbers. starts, lengths, count: the pieces, as data.order.pack.gather
        gives them. A run is the text around a token drawn uniformly from the era's other
        documents. An era with one document borrows from the nearest earlier era with any, else
        from a later one. Raises NoOtherDocumentError when there is no other document at all.
        """
        number = np.arange(len(starts)) - np.repeat(np.cumsum(count) - count, count)
        drawn = draw(np.repeat(draw(self._key, rows), count), number)
        source, ends = self._documents(era)
        begins = np.concatenate(([0], ends[:-1]))
        if np.count_nonzero(ends > begins) > 1:
            home = np.searchsorted(ends, starts, "right")
            own = ends[home] - begins[home]
            token = _below(drawn, ends[-1] - own)
            token += np.where(token >= begins[home], own, 0)
        else:
            source, ends = self._borrow(era)
            begins = np.concatenate(([0], ends[:-1]))
            token = _below(drawn, np.full(len(drawn), ends[-1]))
        other = np.searchsorted(ends, token, "right")
        size = np.minimum(lengths, ends[other] - begins[other]).astype(np.int64)
        first = np.minimum(token, ends[other] - size)
        return source.read(self._component, self._split, first, size), size

    def _documents(self, era: int) -> tuple[Era, np.ndarray]:
        """An era and the end of each of its documents, in tokens from the era's first."""

        def make() -> tuple[Era, np.ndarray]:
            source = self._open_era(era)
            assert source is not None, "an era that has rows is gone"
            return source, np.cumsum(source.lengths(self._component, self._split))

        return self._ends.get(era, make)

    def _borrow(self, era: int) -> tuple[Era, np.ndarray]:
        for number in range(era - 1, -1, -1):
            source, ends = self._documents(number)
            if len(ends) and ends[-1]:
                return source, ends
        number = era + 1
        while self._open_era(number) is not None:
            source, ends = self._documents(number)
            if len(ends) and ends[-1]:
                return source, ends
            number += 1
        raise NoOtherDocumentError(
            f"pairs need at least two documents in component {self._component!r}, whose"
            f" {self._split} split has one; leave the component out, or predict no pairs"
        )


def check_documents(components: tuple[str, ...], totals: Totals) -> None:
    """Raises NoOtherDocumentError for components with fewer than two training documents; totals:
    those of a finished store."""
    lone = [name for name in components if totals[name]["train"]["documents"] < 2]
    if lone:
        raise NoOtherDocumentError(
            f"pairs need at least two documents in component {', '.join(map(repr, lone))};"
            " leave it out of the mixture, or predict no pairs"
        )


def _below(drawn: np.ndarray, n: np.ndarray) -> np.ndarray:
    # Tokens of an era may be more than 2**31; the bias of a remainder is below n / 2**64.
    return (drawn % n.astype(np.uint64)).astype(np.int64)
