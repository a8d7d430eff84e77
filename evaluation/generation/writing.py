"""Tokens that become text, row by row: where it stops, and what of it can be shown already."""

from collections.abc import Callable, Sequence

import numpy as np

from gesso.data.tokenizers.base import Tokenizer

Stream = Callable[[int, str], None]


def before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of `stops` in it."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


class Writer:
    """Collects tokens row by row until the tokenizer's eos, one of `stops` or `max_tokens`; what is
    streamed is whole characters that no stop can take back."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        rows: int,
        max_tokens: int,
        stops: Sequence[str],
        stream: Stream | None,
    ):
        self._tokenizer, self._limit, self._stream = tokenizer, max_tokens, stream
        self._stops = stops
        self._ids: list[list[int]] = [[] for _ in range(rows)]
        self._ended, self._told = [False] * rows, [""] * rows
        self._made = 0

    @property
    def full(self) -> bool:
        return all(self._ended) or self._made >= self._limit

    def add(self, tokens: np.ndarray) -> None:
        for column in tokens:
            if self.full:
                return
            self._made += 1
            for row, token in enumerate(column.tolist()):
                self._ended[row] = self._ended[row] or token == self._tokenizer.eos
                if not self._ended[row]:
                    self._ids[row].append(token)
                    self._ended[row] = self._has_stop(row)
                    self._tell(row, "\ufffd")

    def finish(self) -> list[str]:
        for row in range(len(self._ids)):
            self._tell(row, "")
        return [before(self._tokenizer.decode(ids), self._stops) for ids in self._ids]

    def _has_stop(self, row: int) -> bool:
        if not self._stops:
            return False
        text = self._tokenizer.decode(self._ids[row])
        return any(stop in text for stop in self._stops)

    def _may_stop(self, text: str) -> bool:
        return any(text.endswith(stop[:n]) for stop in self._stops for n in range(1, len(stop)))

    def _tell(self, row: int, unfinished: str) -> None:
        if self._stream is None:
            return
        text = before(self._tokenizer.decode(self._ids[row]), self._stops)
        if unfinished and (text.endswith(unfinished) or self._may_stop(text)):
            return  # the rest of this character, or of a stop, is still to come
        told = self._told[row]
        if text.startswith(told) and len(text) > len(told):
            self._stream(row, text[len(told) :])
            self._told[row] = text
