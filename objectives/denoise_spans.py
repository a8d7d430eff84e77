"""Which spans of a piece are noise, and the two sides made of it (T5): all pieces at once."""

from typing import NamedTuple

import numpy as np

from gesso.data.order.counter_hash import draw

_PLACE = np.uint64((1 << 15) - 1)  # places of a piece: two_sides.LONGEST of them


class Spans(NamedTuple):
    """How many tokens are noise, and in how many spans: i64[pieces] each."""

    noise: np.ndarray
    count: np.ndarray


def span_counts(tokens: np.ndarray, *, noise_density: float, mean_span: float) -> Spans:
    """Noise of pieces of `tokens` (i64[pieces]), as T5 rounds it
    (t5.data.preprocessors.random_spans_noise_mask): at least one token of each side, where there
    are two. A mean span below 1 is a share of the tokens."""
    noise = np.rint(tokens * noise_density).astype(np.int64)
    noise = np.minimum(np.maximum(noise, 1), np.maximum(tokens - 1, 1)) * (tokens > 0)
    mean = mean_span if mean_span >= 1 else np.maximum(tokens * mean_span, 1)
    count = np.maximum(np.rint(noise / mean).astype(np.int64), 1)
    # Every span has a token of its own and one before it that is kept.
    count = np.minimum(count, np.maximum(np.minimum(noise, tokens - noise), 1)) * (tokens > 0)
    return Spans(noise, count)


def noise_of(tokens: np.ndarray, spans: Spans, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random spans: (tokens kept before, tokens of) each span, i64[spans], piece by piece.

    Noise and kept tokens are each parted in `count` parts at random, all partitions being equally
    likely, and taken in turn, kept ones first, as T5 does. keys: u64[pieces]. A piece of one token
    keeps none.
    """
    kept = _partition(tokens - spans.noise, spans.count, draw(keys, np.zeros(1)))
    noise = _partition(spans.noise, spans.count, draw(keys, np.ones(1)))
    return kept, noise


def sentinel_sides(
    tokens: np.ndarray, kept: np.ndarray, noise: np.ndarray, sentinels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(source, target) of joined tokens whose spans are `kept` then `noise` long, without an end:
    in the source a span's sentinel stands for its noise, in the target it stands before it."""
    total_kept, total_noise, spans = int(kept.sum()), int(noise.sum()), len(kept)
    lengths = np.stack([kept, noise], axis=1).reshape(-1)
    is_noise = np.repeat(np.arange(2 * spans) % 2 == 1, lengths)
    before = np.arange(spans)
    source = np.empty(total_kept + spans, np.int64)
    source[np.arange(total_kept) + np.repeat(before, kept)] = tokens[~is_noise]
    source[np.cumsum(kept) + before] = sentinels
    target = np.empty(total_noise + spans, np.int64)
    target[np.arange(total_noise) + np.repeat(before + 1, noise)] = tokens[is_noise]
    target[np.cumsum(noise) - noise + before] = sentinels
    return source, target


def _partition(total: np.ndarray, parts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Each piece's total parted in so many parts of at least 1 (of 0 where the total is 0), all
    ways equally likely: i64[parts.sum()]."""
    piece = np.repeat(np.arange(len(total)), total)
    starts = np.cumsum(total) - total
    nth = np.arange(len(piece)) - starts[piece]
    # Parts start at a piece's first token and at those `parts - 1` of the others whose random
    # numbers are smallest. Sorted with the piece in the high bits, a piece's smallest come first.
    bits = np.uint64(max(1, len(total).bit_length()))
    # The place in the low bits: no two numbers of a piece are equal, and its first is the smallest.
    random = draw(keys[piece], nth) >> bits
    random[nth == 0] = 0
    random = (random & ~_PLACE) | nth.astype(np.uint64)
    order = np.sort(random | (piece.astype(np.uint64) << (np.uint64(64) - bits)))
    some = np.flatnonzero(total)
    largest = np.zeros(len(total), np.uint64)
    largest[some] = (order[starts[some] + parts[some] - 1] << bits) >> bits
    begins = np.flatnonzero(random <= largest[piece])
    made = np.zeros(int(parts.sum()), np.int64)
    made[np.repeat(total > 0, parts)] = np.diff(begins, append=len(piece))
    return made
