"""Sentences as tokens whose words are known, and which occurrences of a word are looked at."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.heldout.rows import heldout_rows

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """ids: what the model reads. word: the place among the words of every id, -1 for one that is
    part of none. words: their texts."""

    ids: list[int]
    word: list[int]
    words: list[str]


@dataclass(frozen=True, kw_only=True)
class Read:
    """Sentences, and how many there were besides: repeated ones, those of fewer than two words, and
    those whose words the tokenizer does not keep apart."""

    sentences: list[Sentence]
    repeated: int
    short: int
    unclear: int


def heldout_sentences(
    store: Store, *, components: Sequence[str] | None = None, most: int
) -> Iterator[str]:
    """About `most` sentences of the held-out documents, spread over them: lines, cut where a full
    stop, question or exclamation mark is followed by space."""

    names = tuple(store.components) if components is None else tuple(components)
    share = -(-most // max(1, len(names)))
    for name in names:
        yield from itertools.islice(_of_component(store, name, rows=share), share)


def _of_component(store: Store, name: str, *, rows: int, length: int = 512) -> Iterator[str]:
    tokenizer = store.tokenizer()
    for block in heldout_rows(store, name, length=length, overlap=0, rows=rows, block=64):
        for ids, segments in zip(block["tokens"], block["segments"], strict=True):
            for segment in range(1, int(segments.max()) + 1):
                kept = ids[segments == segment]
                texts = _SENTENCE_END.split(tokenizer.decode(kept[kept != tokenizer.eos]))
                # Of a document that goes on in other rows, the ends are parts of sentences.
                texts = texts[1:-1] if len(kept) == length else texts
                yield from (text for text in texts if text.strip())


def read_sentences(
    texts: Sequence[str], tokenizer: Tokenizer, *, longest: int, framed: bool
) -> Read:
    """The texts' words, those that white space separates. A sentence longer than `longest` tokens
    loses its last words. framed: between the tokenizer's [CLS] and [SEP].

    Words are tokenized one by one, with the space before them or without, whichever gives the
    sentence's own tokens.
    """
    special = tokenizer.special if framed else {}
    begin = [special[name] for name in ("cls",) if name in special]
    end = [special[name] for name in ("sep",) if name in special]
    room = longest - len(begin) - len(end)
    made, seen = [], set()
    counts = {"repeated": 0, "short": 0, "unclear": 0}
    for text in texts:
        words = text.split()
        spelled = " ".join(words)
        if len(words) < 2 or spelled in seen:
            counts["short" if len(words) < 2 else "repeated"] += 1
            continue
        seen.add(spelled)
        pieces = _pieces(words, spelled, tokenizer)
        if pieces is None:
            counts["unclear"] += 1
            continue
        ends = np.cumsum([len(each) for each in pieces])
        fitting = int((ends <= room).sum())
        if fitting < 2:
            counts["short"] += 1
            continue
        ids = [each for piece in pieces[:fitting] for each in piece]
        word = [place for place, piece in enumerate(pieces[:fitting]) for _ in piece]
        made.append(
            Sentence(
                ids=[*begin, *ids, *end],
                word=[-1] * len(begin) + word + [-1] * len(end),
                words=words[:fitting],
            )
        )
    return Read(sentences=made, **counts)


def _pieces(words: Sequence[str], spelled: str, tokenizer: Tokenizer) -> list[list[int]] | None:
    whole = [int(each) for each in tokenizer.encode(spelled)]
    for space in (" ", ""):
        texts = [words[0], *(space + word for word in words[1:])]
        pieces = [[int(each) for each in tokenizer.encode(text)] for text in texts]
        if [each for piece in pieces for each in piece] == whole and all(pieces):
            return pieces
    return None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which word occurrences count for what. Of sentence s and its word place p:

    kind[s][p]: the number of the word it is an occurrence of, of `words`; -1: of none.
    drawn[s]: the place of the word that stands for the sentence among random words.
    slot[s][p], random_slot[s][p]: its place in the matrices of `matched` occurrences of every word,
    and of as many random words; -1: in none.
    """

    words: list[str]
    contexts: np.ndarray
    matched: int
    kind: list[np.ndarray]
    drawn: np.ndarray
    slot: list[np.ndarray]
    random_slot: list[np.ndarray]


def plan(
    sentences: Sequence[Sentence], *, contexts: int, words: int, matched: int, seed: int
) -> Plan:
    """contexts: in how many sentences a word must be. words: how many of those words at most,
    drawn. A sentence gives one occurrence of a word, its first. Raises ValueError where no word is
    in so many, or there are fewer sentences than `matched`."""
    drawn = np.random.default_rng(seed)
    where: dict[str, list[tuple[int, int]]] = {}
    for number, sentence in enumerate(sentences):
        first: dict[str, int] = {}
        for place, word in enumerate(sentence.words):
            first.setdefault(word, place)
        for word, place in first.items():
            where.setdefault(word, []).append((number, place))
    common = sorted(word for word, places in where.items() if len(places) >= contexts)
    if not common or len(sentences) < matched:
        raise ValueError(
            f"no word is in {contexts} of the {len(sentences)} sentences; give more sentences"
            if not common
            else f"{len(sentences)} sentences; at least {matched} are needed"
        )
    if len(common) > words:
        common = sorted(drawn.choice(common, words, replace=False).tolist())
    kind = [np.full(len(each.words), -1) for each in sentences]
    slot = [each.copy() for each in kind]
    random_slot = [each.copy() for each in kind]
    for number, word in enumerate(common):
        places = where[word]
        for sentence, place in places:
            kind[sentence][place] = number
        for row, chosen in enumerate(drawn.choice(len(places), matched, replace=False)):
            sentence, place = places[chosen]
            slot[sentence][place] = number * matched + row
    one_of_each = np.array([drawn.integers(len(each.words)) for each in sentences])
    # As many matrices of random words as there are words, if sentences suffice: each of different
    # sentences, and no sentence twice.
    matrices = min(len(common), len(sentences) // matched)
    for row, sentence in enumerate(drawn.permutation(len(sentences))[: matrices * matched]):
        random_slot[sentence][one_of_each[sentence]] = row
    return Plan(
        words=common,
        contexts=np.array([len(where[word]) for word in common]),
        matched=matched,
        kind=kind,
        drawn=one_of_each,
        slot=slot,
        random_slot=random_slot,
    )
