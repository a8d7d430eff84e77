"""Contiguous reading: every place of a batch reads its own stretch of the corpus, window by window.

For models that remember from batch to batch. Row i is read by place i % streams, as its row number
i // streams; the places are dealt out to the components in proportion to their weights.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gesso.data.order.mixture import MixtureError, SegmentRecord, apportion

Segments = Sequence[tuple[int, Mapping[str, float]]]


class Streams:
    """The components of rows, as data.mixture.Mixture gives them, each place having one for good.

    segments: as `gesso.data.order.mixture.resolve` gives them. Raises MixtureError for mixtures
    that change, and for more components than streams.
    """

    def __init__(self, segments: Segments, *, streams: int) -> None:
        if len(segments) > 1:
            raise MixtureError(
                "a mixture cannot change under streams: each would go on with text of another"
                " component; leave out data.mixture.changes, or use --data.packing best_fit"
            )
        weights = segments[0][1]
        if len(weights) > streams:
            raise MixtureError(
                f"{len(weights)} components need as many streams, and a batch of {streams} rows has"
                f" {streams}; raise --batch, name fewer components in data.mixture, or use"
                " --data.packing best_fit"
            )
        self.components = tuple(sorted(weights))
        shares = np.array([weights[name] for name in self.components])
        self.counts = apportion(shares, rows=streams)
        self.streams = streams
        self._owner = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        first = np.cumsum(self.counts) - self.counts
        self._rank = np.arange(streams) - first[self._owner]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (i64[n]) -> (component id i32[n], row number within the component i64[n])."""
        turn, place = np.divmod(rows, self.streams)
        component = self._owner[place]
        return component, turn * self.counts[component] + self._rank[place]

    def consumption(self, row: int) -> np.ndarray:
        """i64[components]: how many rows of each component lie before `row`."""
        turns, rest = divmod(row, self.streams)
        return turns * self.counts + np.bincount(self._owner[:rest], minlength=len(self.counts))

    def record(self) -> list[SegmentRecord]:
        """The mixture as JSON: how many streams each component has."""
        named = zip(self.components, self.counts.tolist(), strict=True)
        return [{"at": 0, "counts": dict(named)}]


def stretches(windows: int, *, streams: int) -> np.ndarray:
    """i64[windows]: the window that each row of an era is, in the order of the text.

    Row j is window j // streams of stretch j % streams; the stretches follow one another in the
    text, as long as each other or one longer.
    """
    row = np.arange(windows)
    turn, stream = np.divmod(row, streams)
    whole, longer = divmod(windows, streams)
    return stream * whole + np.minimum(stream, longer) + turn
