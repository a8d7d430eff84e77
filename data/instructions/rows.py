"""Instruction examples in rows: what is cut where they do not fit, and what each token weighs."""

from dataclasses import dataclass

import numpy as np

from gesso.data.config import ExamplesConfig
from gesso.data.instructions.store import InstructionStore
from gesso.data.order.base import Rows
from gesso.data.order.pack import assemble


@dataclass(frozen=True)
class Kept:
    """What of each piece is in a row: `head` tokens of its prompt and the first `tail` of the
    rest; both i64[n]."""

    head: np.ndarray
    tail: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.head + self.tail


def fit(heads: np.ndarray, lengths: np.ndarray, *, length: int) -> Kept:
    """What of pieces of so many tokens (heads: of the prompt) fits in `length` tokens.

    A prompt that is too long is cut; its target survives whole as long as one token of the prompt
    fits beside it. Of a longer target the beginning is kept, beside at most a quarter of the row
    for the prompt.
    """
    heads, lengths = heads.astype(np.int64), lengths.astype(np.int64)
    tails = lengths - heads
    over = tails >= length
    head = np.where(over, np.minimum(heads, length // 4), np.minimum(heads, length - tails))
    return Kept(head, np.where(over, length - head, tails))


def rows_of(
    store: InstructionStore,
    pieces: np.ndarray,
    count: np.ndarray,
    *,
    length: int,
    room: int,
    examples: ExamplesConfig,
) -> Rows:
    """Rows out of pieces (i64[p], row by row, count i64[n] to a row): "tokens", "segments",
    "positions" i32[n, length] as data.order.pack.assemble gives them, "lm_weight" f32[n, length].

    room: the most tokens of one piece. lm_weight is what predicting a token counts for: 0 at the
    first token of every piece and in padding.
    """  # fmt: skip
    heads, lengths = store.heads[pieces].astype(np.int64), store.lengths[pieces]
    kept = fit(heads, lengths, length=room)
    begin = {"start": np.zeros_like(heads), "middle": (kept.head + 1) // 2, "end": kept.head}
    before = np.where(kept.head < heads, begin[examples.cut], 0)
    after = kept.head - before
    first = store.ends[pieces] - lengths
    starts = np.stack((first, first + heads - after), 1).reshape(-1)
    sizes = np.stack((before, after + kept.tail), 1).reshape(-1)
    tokens, targets = store.read(starts, sizes)
    weight = np.where(targets, np.float32(1), np.float32(examples.prompt_weight))
    last = np.cumsum(kept.lengths)
    weight[last - kept.lengths] = 0
    if examples.weigh == "examples":
        predicted = np.add.reduceat(targets, last - kept.lengths, dtype=np.int64)
        weight /= np.repeat(np.maximum(predicted, 1), kept.lengths).astype(np.float32)
    made = assemble(tokens, kept.lengths, count, length=length)
    weights = np.zeros(made["tokens"].shape, np.float32)
    weights[made["segments"] > 0] = weight
    return made | {"lm_weight": weights}
