"""Objectives with a source that is read and a target that is written: room for both, packed rows,
and what a target costs."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective, Take, Term
from gesso.objectives.cross_entropy import Scored, cross_entropy
from gesso.objectives.given import ModelSettings, Module

LETTERS = {"source": "BS", "source_segments": "BS", "source_positions": "BS"}
LONGEST = 1 << 15  # tokens of a row for which room is computed
_TYPICAL_PIECE = 256  # tokens; decides only what is fast, never what fits

# pieces' tokens i64[n] -> the most tokens that their (sources, targets) can have, i64[n] each
Costs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# row numbers i64[n] -> those rows of the data


@dataclass(frozen=True, kw_only=True)
class Room:
    """What makes every packed row fit: a piece of n tokens takes n + overhead of the row's length,
    its source at most (n + overhead) * source, its target at most (n + overhead) * target."""

    overhead: int
    source: Fraction
    target: Fraction

    @property
    def _longest(self) -> Fraction:
        return max(self.source, self.target)

    def row_length(self, length: int) -> int:
        """Tokens of a row whose longer side fits in `length`."""
        return int(length / self._longest)

    def sizes(self, row_length: int) -> tuple[int, int]:
        """(S, L), of a row's length alone; the longer is the length that row_length was asked for.

        The shorter is rounded up to a power of two's multiple, that it may divide over a mesh axis
        of up to 8 that divides the longer.
        """
        length = math.ceil(row_length * self._longest)
        step = max(math.gcd(length, 8), math.gcd(length, 128) // 4)
        source, target = (
            min(length, -(-int(row_length * share) // step) * step)
            if share < self._longest
            else length
            for share in (self.source, self.target)
        )
        return source, target


def make_room(costs: Iterable[Costs]) -> Room:
    """Room for pieces of any length, whichever of `costs` they meet.

    T5 (t5.data.preprocessors.random_spans_helper) cuts text into pieces that fill the encoder
    exactly, so that 568 tokens become 512 and 114; its rows hold one piece. Here rows hold pieces
    of any length, and short ones shrink less: the overhead that each is charged for in packing
    makes the bounds hold for all of them. It is the one that needs least room per token.
    """
    n = np.arange(1, LONGEST + 1)
    sides = [np.maximum.reduce(side) for side in zip(*(cost(n) for cost in costs), strict=True)]

    def room(overhead: int) -> Room:
        # The largest ratio in floats is the largest: two that differ do so by over 1 / LONGEST^2.
        at = [int((side / (n + overhead)).argmax()) for side in sides]
        source, target = (
            Fraction(int(side[i]), i + 1 + overhead) for side, i in zip(sides, at, strict=True)
        )
        return Room(overhead=overhead, source=source, target=target)

    fitting = [each for each in map(room, range(65)) if max(each.source, each.target) <= 1]
    return min(
        fitting, key=lambda r: (r.source + r.target) * (1 + Fraction(r.overhead, _TYPICAL_PIECE))
    )


class Pieces(NamedTuple):
    """The pieces of documents in a block of rows, row by row.

    tokens: i64[total], joined. lengths, rows, numbers: i64[pieces], tokens of each, its row in the
    block and its place in the row from 0.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    numbers: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """i64[pieces]: where each begins in `tokens`."""
        return np.cumsum(self.lengths) - self.lengths


def pieces_of(rows: Mapping[str, np.ndarray]) -> Pieces:
    """The pieces in "tokens" and "segments" (i32[n, T]), padding left out."""
    tokens, segments = rows["tokens"], rows["segments"]
    n, length = tokens.shape
    width = int(segments.max(initial=0)) + 1
    keys = segments + (np.arange(n, dtype=np.int64) * width)[:, None]
    count = np.bincount(keys.reshape(-1), minlength=n * width).reshape(n, width)[:, 1:]
    row, number = np.nonzero(count)
    return Pieces(tokens[segments > 0], count[row, number], row, number)


def lay_out(
    streams: Mapping[str, np.ndarray], lengths: np.ndarray, pieces: Pieces, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Streams of the pieces' tokens ([total], `lengths` of each piece) in rows, padded at the end
    with 0, beside "segments" (from 1) and "positions" (from 0 in each piece)."""
    rows, length = shape
    used = np.bincount(pieces.rows, lengths, minlength=rows).astype(np.int64)
    assert used.max(initial=0) <= length, "a row has more tokens than were computed to fit"
    within = np.arange(length) < used[:, None]
    starts = np.cumsum(lengths) - lengths
    named = dict(streams) | {
        "segments": np.repeat(pieces.numbers + 1, lengths),
        "positions": np.arange(lengths.sum()) - np.repeat(starts, lengths),
    }
    laid = {name: np.zeros(shape, np.int32) for name in named}
    for name, values in named.items():
        laid[name][within] = values
    return laid


def around(
    tokens: np.ndarray,
    lengths: np.ndarray,
    *,
    before: np.ndarray,
    first: int,
    after: np.ndarray,
    last: int,
) -> np.ndarray:
    """Joined tokens with `first` before those pieces that get it (bool[pieces]), `last` after."""
    made = np.empty(len(tokens) + int(before.sum()) + int(after.sum()), np.int64)
    whole = lengths + before + after
    starts = np.cumsum(whole) - whole
    shift = starts + before - (np.cumsum(lengths) - lengths)
    made[np.arange(len(tokens)) + np.repeat(shift, lengths)] = tokens
    made[starts[before]] = first
    made[(starts + whole - 1)[after]] = last
    return made


class Sides(NamedTuple):
    """Sources and targets of the same pieces: tokens joined, and tokens of each (0: left out)."""

    source: np.ndarray
    source_lengths: np.ndarray
    target: np.ndarray
    target_lengths: np.ndarray


class TwoSided(Objective):
    """What its kinds share: packed batches, decoder inputs, and the cost of each target.

    Of the batch, "source", "source_segments", "source_positions" are i32[B, S]; "tokens" (the
    start id, then the targets but the last, piece by piece), "segments", "positions", "targets"
    i32[B, L]; "lm_weight" f32[B, L] is 1 at every target. Segment k of both sides is piece k of the
    row.
    """

    overlap: Literal[0, 1] = 0
    companions = False
    letters: Mapping[str, str] = LETTERS
    weight_leaves: tuple[str, ...] = ("lm_weight",)  # the first is the first term's
    terms: Mapping[str, Term]

    def __init__(
        self,
        config: Any,
        *,
        tokenizer: Tokenizer | None,
        model: ModelSettings | None,
        room: Room | None = None,
    ):
        """room: shared with other objectives of a mix. Raises ValueError for a model that has no
        source, or no start id for the decoder."""
        if tokenizer is None or model is None:
            raise ValueError(f"objective {config.kind} needs the store's tokenizer and a model")
        if model.architecture != "encoder_decoder":
            raise ValueError(
                f"objective {config.kind} needs an encoder and a decoder (model.family"
                f" seq2seq or encoder_decoder), not a model of family {model.family}"
            )
        self.config, self.end, self.vocab = config, int(tokenizer.eos), int(model.vocab)
        self.start = config.start if config.start >= 0 else model.start
        if not 0 <= self.start < self.vocab:
            raise ValueError(
                f"the decoder's first input is id {self.start}, which the model's vocab of"
                f" {self.vocab} does not have; set --objective.start"
            )
        self.room = room or make_room([self.costs])
        self.overhead = self.room.overhead

    def costs(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The most tokens that (source, target) of a piece of n tokens can have, i64[n] each."""
        raise NotImplementedError

    def sides(self, pieces: Pieces, row_numbers: np.ndarray) -> Sides:
        """What pieces become. row_numbers: i64[rows], of the global order."""
        raise NotImplementedError

    def check(self, take: Take) -> None:
        """Raises ValueError where the data has nothing for this objective."""

    def weights(self, pieces: Pieces, made: Sides, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """Further weight leaves, f32 of `shape`."""
        return {}

    def row_length(self, length: int) -> int:
        """Tokens of a row whose longer side, source or target, never exceeds `length`."""
        row_length = self.room.row_length(length)
        if row_length > LONGEST:
            raise ValueError(
                f"objective {self.config.kind} lays out rows of up to {LONGEST} tokens, not"
                f" {row_length}; lower --length"
            )
        return row_length

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of T tokens -> the batch (class docstring), and "component" i32[n]."""
        n, row_length = rows["tokens"].shape
        source_size, size = self.room.sizes(row_length)
        pieces = pieces_of(rows)
        made = self.sides(pieces, rows["row"])
        source = lay_out({"source": made.source}, made.source_lengths, pieces, (n, source_size))
        inputs = np.empty_like(made.target)
        inputs[1:] = made.target[:-1]
        starts = np.cumsum(made.target_lengths) - made.target_lengths
        inputs[starts[made.target_lengths > 0]] = self.start
        streams = {"tokens": inputs, "targets": made.target}
        target = lay_out(streams, made.target_lengths, pieces, (n, size))
        batch = target | {
            "source": source["source"],
            "source_segments": source["segments"],
            "source_positions": source["positions"],
            "lm_weight": (target["segments"] > 0).astype(np.float32),
            "component": np.ascontiguousarray(rows["component"], np.int32),
        }
        return batch | self.weights(pieces, made, (n, size))

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None, *, chunk: int
    ) -> Scored:
        """What each target costs; the same for all objectives of this class. chunk: tokens."""
        x_BLD = module.features(batch, key)
        return cross_entropy(x_BLD, batch["targets"], *module.head(), chunk_tokens=chunk)

    def values(self, scored: Scored, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{term: its values} of what was scored."""
        return {"nll": scored.nll_BL, "accuracy": scored.correct_BL}

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{term: f32[B, L]}. No key, no dropout."""
        scored = self.score(module, batch, key, chunk=self.config.chunk_tokens)
        return self.values(scored, batch)
