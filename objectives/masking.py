"""Which places of a row are predicted and what stands there instead, for all rows at once.

Every place has its random number, a function of the seed, the row's number and the place. The units
(tokens, words or spans) with the smallest numbers are predicted, up to the row's budget.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gesso.data.order.counter_hash import below, draw, fraction
from gesso.data.order.permutation import make_key

# Places beyond the budget, so that a long word or span which crosses it still fits.
_ROOM = {"token": 0, "word": 16, "span": 16}
_LAST = np.uint64(2**64 - 1)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """The rule. special: bool[vocab], ids that are never predicted and never put anywhere.
    continues: bool[vocab], ids that go on with the word of the token before. others: i32, the ids
    that a random replacement is drawn from. The rest as in MaskedLMConfig."""

    rate: float
    mask_share: float
    random_share: float
    unit: Literal["token", "word", "span"]
    span_end: float
    span_longest: int
    seed: int
    mask: int
    special: np.ndarray
    continues: np.ndarray
    others: np.ndarray

    def places(self, length: int) -> int:
        """M, the predicted places of a row of this length: a multiple of 8, which splits well."""
        return min(length, 8 * math.ceil((math.ceil(self.rate * length) + _ROOM[self.unit]) / 8))


def mask_rows(
    tokens: np.ndarray, segments: np.ndarray, rows: np.ndarray, rule: Masking
) -> dict[str, np.ndarray]:
    """tokens, segments i32[n, L] and the rows' numbers i64[n] -> "tokens" i32[n, L] with the
    predicted places replaced, "masked_places" and "targets" i32[n, M], "mlm_weight" f32[n, M].

    The budget is rate x the row's tokens that are not special. Units are taken in the order of
    their numbers as long as they fit in it whole; the one that crosses it is taken with the
    probability that makes the expected number of places the budget, unless it would need more than
    M places: then it is left out, and the row has fewer. Places come in ascending order; unused
    ones are place 0 with weight 0.
    """
    length, count = tokens.shape[1], rule.places(tokens.shape[1])
    candidate = ~np.take(rule.special, tokens) & (segments > 0)
    keys = [draw(key, rows)[:, None] for key in make_key("mask", rule.seed)]
    start = _unit_starts(tokens, candidate, keys[1], rule)
    # One number holds the order and, in its low bits, the place: sorting carries the place along,
    # and the tokens of a unit, which share the other bits, stay together.
    low = np.uint64((1 << max(1, (length - 1).bit_length())) - 1)
    place = np.arange(length)
    order = draw(keys[0], place if start is None else start)
    order &= ~low
    order |= place.astype(np.uint64)
    order[~candidate] = _LAST
    smallest = order if count + 1 >= length else np.partition(order, count, axis=1)[:, : count + 1]
    smallest = np.sort(smallest, axis=1)
    chosen = np.minimum((smallest & low).astype(np.int64), length - 1)
    budget = rule.rate * np.count_nonzero(candidate, axis=1)[:, None]
    taken = smallest != _LAST
    luck = fraction(draw(keys[2], np.zeros(1, int)))
    taken &= _within(_unit_ranks(start, chosen, taken), budget, luck, count)
    chosen = np.sort(np.where(taken, chosen, length)[:, :count], axis=1)
    weight = chosen < length
    chosen *= weight
    return _replace_tokens(tokens, chosen, weight, start, keys[3], rule)


def _unit_ranks(
    start: np.ndarray | None, chosen: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of the first token of each chosen token's unit, and of the first one after it."""
    last = chosen.shape[1]
    rank = np.arange(last)[None]
    if start is None:
        return rank, rank + 1
    offset = chosen - np.take_along_axis(start, chosen, axis=1)
    begins = np.where((offset == 0) | ~there, rank, last)
    following = np.minimum.accumulate(begins[:, :0:-1], axis=1)[:, ::-1]
    return rank - offset, np.pad(following, ((0, 0), (0, 1)), constant_values=last)


def _within(
    unit: tuple[np.ndarray, np.ndarray], budget: np.ndarray, luck: np.ndarray, count: int
) -> np.ndarray:
    """Which of the chosen places belong to units that the budget reaches and M places hold."""
    first, end = unit
    crosses = (first < budget) & (luck * (end - first) < budget - first)
    return ((end <= budget) | crosses) & (end <= count)


def _unit_starts(
    tokens: np.ndarray, candidate: np.ndarray, key: np.ndarray, rule: Masking
) -> np.ndarray | None:
    """i64[n, L]: where the unit of each place begins; None where every place is its own."""
    if rule.unit == "token":
        return None
    begins = ~np.take(rule.continues, tokens)
    begins[:, 1:] |= ~candidate[:, :-1]
    begins[:, 0] = True
    if rule.unit == "span":
        begins &= candidate
        word = np.cumsum(begins, axis=1) - 1
        starts = _span_starts(key, tokens.shape[1], rule)
        kept = np.take_along_axis(starts, np.maximum(word, 0), axis=1)
        kept[:, 1:] |= ~candidate[:, :-1]
        begins &= kept
    place = np.where(begins, np.arange(tokens.shape[1]), 0)
    return np.maximum.accumulate(place, axis=1)


def _span_starts(key: np.ndarray, length: int, rule: Masking) -> np.ndarray:
    """bool[n, L]: the words of each row, by number, that begin a span. Lengths are geometric,
    drawn again where they exceed span_longest (as SpanBERT's are: mean 3.8 for 0.2 and 10)."""
    chance = (1 - rule.span_end) ** np.arange(rule.span_longest)
    bounds = np.cumsum(chance / chance.sum())
    # 16 bits a draw, so four of one number; a chance is off by at most 2**-16.
    table = np.searchsorted(bounds[:-1], np.arange(1 << 16) / (1 << 16), "right") + 1
    bits = draw(key, np.arange(-(-length // 4))).astype("<u8").view("<u2")[:, :length]
    ends = np.cumsum(np.take(table, bits), axis=1)
    starts = np.zeros((len(key), length), bool)
    starts[:, 0] = True
    row, column = np.nonzero(ends < length)
    starts[row, ends[row, column]] = True
    return starts


def _replace_tokens(
    tokens: np.ndarray,
    chosen: np.ndarray,
    weight: np.ndarray,
    start: np.ndarray | None,
    key: np.ndarray,
    rule: Masking,
) -> dict[str, np.ndarray]:
    targets = np.take_along_axis(tokens, chosen, axis=1)
    # A span is masked, replaced or kept as a whole; tokens and the parts of words one by one.
    together = rule.unit == "span" and start is not None
    unit = np.take_along_axis(start, chosen, axis=1) if together else chosen
    share = fraction(draw(key, 2 * unit))
    other = rule.others[below(draw(key, 2 * chosen + 1), len(rule.others))]
    read = np.where(share < rule.mask_share + rule.random_share, other, targets)
    read = np.where(share < rule.mask_share, rule.mask, read)
    masked = tokens.copy()
    np.put_along_axis(masked, chosen, np.where(weight, read, targets).astype(np.int32), axis=1)
    return {
        "tokens": masked,
        "masked_places": chosen.astype(np.int32),
        "targets": np.where(weight, targets, 0).astype(np.int32),
        "mlm_weight": weight.astype(np.float32),
    }
