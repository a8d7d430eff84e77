"""What a model must beat: a unigram over tokens and a 3-gram over bytes, in bits per byte."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gesso.data.store.base import TextStore
from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.heldout.rows import heldout_rows

TRAIN_BYTES = 20_000_000
END = 256  # the symbol after a document's last byte
SYMBOLS = 257


def baselines(
    store: TextStore,
    *,
    length: int,
    overlap: int = 1,
    rows: int = 0,
    components: Sequence[str] | None = None,
    train_bytes: int = TRAIN_BYTES,
) -> dict[str, float]:
    """{"unigram": bits per byte, "byte_3gram": bits per byte} of the held-out target tokens that
    `evaluate_heldout` scores with the same `length`, `rows` and `components`.

    length: tokens a row predicts. rows: held-out rows per component, 0 = all. Both are fitted on
    the same documents of the train split: each component's first ones, in proportion to its size,
    up to `train_bytes` in total. Of a store that is still being built, both splits are those of its
    first era.

    unigram: token frequencies with one added to every id of the vocabulary.
    byte_3gram: interpolated Witten-Bell over bytes and an end-of-document symbol (Chen & Goodman
    1998, https://aclanthology.org/P96-1041, section 2.5), down to a uniform distribution.

    As for the model, a document's first token is context and not scored, the end of a document is
    scored, and the context of a document cut between rows starts where its row starts. Bytes are
    those of the scored tokens. Raises ValueError when nothing is held out.
    """
    names = tuple(store.components) if components is None else tuple(components)
    eras = 0 if store.complete else 1
    tokenizer = store.tokenizer()
    counts, grams = _fit(store, names, tokenizer, train_bytes=train_bytes, eras=eras)
    token_bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    totals = np.zeros(3)  # unigram bits, 3-gram bits, bytes
    for name in names:
        shape: dict[str, Any] = {"length": length + overlap, "overlap": overlap}
        for block in heldout_rows(store, name, **shape, rows=rows, block=64):
            totals += _score(block, tokenizer, token_bits, grams)
    if not totals[2]:
        raise ValueError(f"nothing is held out in {', '.join(names) or 'this store'}")
    return {
        "unigram": float(totals[0] / totals[2]),
        "byte_3gram": float(totals[1] / totals[2]),
    }


class Grams:
    """Counts of 1-, 2- and 3-grams of symbols, and the smoothed probability they give.

    Fixed size: 257 ** 3 counts, 68 MB.
    """

    def __init__(self) -> None:
        self._one = np.zeros(SYMBOLS, np.int64)
        self._two = np.zeros(SYMBOLS**2, np.int64)
        self._three = np.zeros(SYMBOLS**3, np.uint32)

    def add(self, symbols: np.ndarray, starts: np.ndarray) -> None:
        """symbols: i64[n], documents one after the other. starts: where each begins."""
        inside = _distance(len(symbols), starts)
        pairs = _keys(symbols, 2)[inside[1:] >= 1]
        triples = _keys(symbols, 3)[inside[2:] >= 2]
        self._one += np.bincount(symbols, minlength=SYMBOLS)
        self._two += np.bincount(pairs, minlength=SYMBOLS**2)
        keys, counts = np.unique(triples, return_counts=True)
        self._three[keys] += counts.astype(np.uint32)

    def finish(self) -> None:
        """After the last `add`: what every context adds up to."""
        self._rows = {}
        for order, table in ((2, self._two), (3, self._three)):
            by_context = table.reshape(-1, SYMBOLS)
            self._rows[order] = (by_context.sum(axis=1), np.count_nonzero(by_context, axis=1))

    def probabilities(self, symbols: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """f64[n]: each symbol's probability after the (at most two) before it in its document."""
        inside = _distance(len(symbols), starts)
        kinds, total = np.count_nonzero(self._one), self._one.sum()
        p = (
            (self._one[symbols] + kinds / SYMBOLS) / (total + kinds)
            if total
            else (np.full(len(symbols), 1 / SYMBOLS))
        )
        for order, table in ((2, self._two), (3, self._three)):
            keys = _keys(symbols, order)
            seen, distinct = (each[keys // SYMBOLS] for each in self._rows[order])
            # A context never seen leaves the shorter context's probability as it is.
            known = (inside[order - 1 :] >= order - 1) & (seen > 0)
            tail = p[order - 1 :]
            mixed = (table[keys] + distinct * tail) / np.maximum(seen + distinct, 1)
            p[order - 1 :] = np.where(known, mixed, tail)
        return p


def _keys(symbols: np.ndarray, order: int) -> np.ndarray:
    """i64[n - order + 1]: one integer per n-gram."""
    count = max(len(symbols) - order + 1, 0)
    keys = np.zeros(count, np.int64)
    for back in range(order):
        keys = keys * SYMBOLS + symbols[back : back + count]
    return keys


def _distance(n: int, starts: np.ndarray) -> np.ndarray:
    """i64[n]: how far each position lies from the start of its document."""
    at = np.zeros(n, np.int64)
    at[starts] = starts
    return np.arange(n) - np.maximum.accumulate(at)


def _fit(
    store: TextStore, names: Sequence[str], tokenizer: Tokenizer, *, train_bytes: int, eras: int
) -> tuple[np.ndarray, Grams]:
    """Token counts i64[V] and n-gram counts of the first documents of the train split."""
    totals = store.totals()
    sizes = {name: totals.get(name, {}).get("train", {}).get("bytes", 0) for name in names}
    share = min(1.0, train_bytes / max(sum(sizes.values()), 1))
    counts, grams = np.zeros(tokenizer.vocab_size, np.int64), Grams()
    for name in names:
        left = sizes[name] * share
        for tokens, lengths in _documents(store, name, eras):
            if left <= 0:
                break
            per_document = np.add.reduceat(
                tokenizer.byte_lengths[tokens].astype(np.int64), np.cumsum(lengths) - lengths
            )
            # At least one document, then whole ones while there is budget.
            taken = max(1, int(np.searchsorted(np.cumsum(per_document), left, side="right")))
            left -= int(per_document[:taken].sum())
            used = tokens[: int(lengths[:taken].sum())]
            counts += np.bincount(used, minlength=len(counts))
            pieces = np.split(used, np.cumsum(lengths[:taken])[:-1])
            symbols = [_symbols(piece, tokenizer) for piece in pieces]
            grams.add(*_join(symbols))
    grams.finish()
    return counts, grams


def _documents(store: TextStore, name: str, eras: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens, lengths) of up to about a million tokens of whole documents at a time."""
    number = 0
    while not (eras and number >= eras) and (era := store.era(number)) is not None:
        lengths = np.asarray(era.lengths(name, "train"), np.int64)
        lengths_before = np.cumsum(lengths) - lengths
        first = 0
        while first < len(lengths):
            reach = lengths_before[first] + (1 << 20)
            last = max(first + 1, int(np.searchsorted(lengths_before, reach)))
            part = lengths[first:last]
            start = lengths_before[first : first + 1]
            yield era.read(name, "train", start, part.sum(keepdims=True)).astype(np.int64), part
            first = last
        number += 1


def _symbols(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """i64: the bytes a piece of a document stands for, and END where the document ends."""
    ended = len(ids) > 0 and ids[-1] == tokenizer.eos
    body = ids[:-1] if ended else ids
    if tokenizer.kind == "bytes":
        symbols = body.astype(np.int64)
    else:
        encoded = tokenizer.decode(body).encode("utf-8")
        symbols = np.frombuffer(encoded, np.uint8).astype(np.int64)
    return np.append(symbols, END) if ended else symbols


def _join(pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One array of symbols, and where each piece that is not empty starts in it."""
    kept = [piece for piece in pieces if len(piece)]
    lengths = np.array([len(piece) for piece in kept], np.int64)
    joined = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return joined, np.cumsum(lengths) - lengths


def _score(
    block: dict[str, np.ndarray], tokenizer: Tokenizer, token_bits: np.ndarray, grams: Grams
) -> np.ndarray:
    """[unigram bits, 3-gram bits, bytes] over the target tokens of a block of rows."""
    totals, pieces, scored = np.zeros(3), [], []
    for tokens, segments in zip(block["tokens"], block["segments"], strict=True):
        for piece in np.split(tokens, np.flatnonzero(np.diff(segments)) + 1):
            at = len(piece) and segments[0] > 0
            segments = segments[len(piece) :]
            if not at or len(piece) < 2:
                continue
            targets = piece[1:]
            target_bytes = int(tokenizer.byte_lengths[targets].sum())
            totals += (token_bits[targets].sum(), 0, target_bytes)
            symbols = _symbols(piece, tokenizer)
            # The first token's bytes are context. Counted from the end: a cut inside a character
            # decodes to a replacement character, at the edges only.
            count = min(target_bytes + int(targets[-1] == tokenizer.eos), len(symbols))
            pieces.append(symbols)
            scored.append(np.arange(len(symbols)) >= len(symbols) - count)
    if pieces:
        symbols, starts = _join(pieces)
        p = grams.probabilities(symbols, starts)
        totals[1] = -np.log2(p[np.concatenate(scored)]).sum()
    return totals
