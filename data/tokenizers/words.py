"""Whole words as ids, each spelled by its characters: what ELMo reads.

The first ids are </S>, <S> and <UNK>, as in published vocabularies; the others are words, the most
frequent first. A line of text is a sentence: <S>, its words, </S>, where the last </S> is the one
that ends the document. White space is not given back.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from gesso.data.tokenizers.base import (
    Tokenizer,
    TokenizerError,
    check_ids,
    content_fingerprint,
    read_file,
    utf8,
)

SPECIAL = ("</S>", "<S>", "<UNK>")
EOS, BOS, UNK = range(3)
VOCABULARY_FILE = "vocab.txt"
SETTINGS_FILE = "words.json"
BEYOND_FILE = "words_beyond.txt"  # of exports: words beyond the softmax's classes
# The character ids of UnicodeCharsVocabulary (https://github.com/allenai/bilm-tf, bilm/data.py).
CHARACTERS = 50
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD = range(256, 261)
Split = Literal["punctuation", "white_space"]
_WORD = {"punctuation": re.compile(r"\w+|[^\w\s]"), "white_space": re.compile(r"\S+")}
_LINE = re.compile(r"[\n\r\f\v\x1c-\x1e\x85\u2028\u2029]+")
# Distinct words that are counted at once: beyond, those that came once are forgotten.
COUNTED_WORDS = 20_000_000


class WordTokenizer(Tokenizer):
    """A table of words.

    words: the table, </S>, <S>, <UNK> first. classes: so many of its first ids are what a softmax
    tells apart; a word beyond is read by its own characters, but as a target it is <UNK>. A word
    that is not in the table is <UNK> both as input and as target.
    split: what a word is, letters and digits or one mark of punctuation, or whatever white space
    separates, as published vocabularies have it.
    spelling: u16[vocab_size, 50], the character ids of every id. truncated: how many words of the
    table have more characters than that and lose their ends. byte_lengths: of the words alone.
    Raises TokenizerError for a table without the three, with a word twice, or of other sizes.
    """

    kind = "words"
    eos = EOS
    special = MappingProxyType({"unk": UNK})

    def __init__(self, words: Sequence[str], *, classes: int, split: Split, source: str = "words"):
        if tuple(words[:3]) != SPECIAL:
            raise TokenizerError(
                f"{source}: a vocabulary of words begins with {', '.join(SPECIAL)}, not"
                f" {', '.join(words[:3]) or 'nothing'}; train one"
                " (gesso tokenizer train --kind words)"
            )
        self._ids = {word: index for index, word in enumerate(words)}
        if len(self._ids) < len(words):
            twice = next(word for word, n in Counter(words).items() if n > 1)
            raise TokenizerError(f"{source}: the word {twice!r} is there twice; no vocabulary")
        if not len(SPECIAL) < classes <= len(words):
            raise TokenizerError(
                f"{source}: {classes} classes of {len(words)} words; there must be more than"
                f" {len(SPECIAL)} and at most as many as words"
            )
        if split not in _WORD:
            raise TokenizerError(f"{source}: split is one of {', '.join(_WORD)}, not {split!r}")
        self._words, self._classes, self._split = list(words), classes, split
        self.vocab_size = len(words)
        self.byte_lengths = np.array([len(word.encode()) for word in words], np.int32)
        self.byte_lengths[: len(SPECIAL)] = 0
        self.continues = np.zeros(len(words), bool)  # every id is a word
        self.truncated = int((self.byte_lengths > CHARACTERS - 2).sum())
        content = json.dumps([list(words), classes, split], ensure_ascii=True).encode()
        self.fingerprint = content_fingerprint(kind=self.kind, eos=self.eos, content=content)

    @property
    def classes(self) -> int:
        return self._classes

    @property
    def spelling(self) -> np.ndarray:
        return self._spelling

    @cached_property
    def _spelling(self) -> np.ndarray:
        return spell(self._words, characters=CHARACTERS)

    def encode(self, text: str) -> np.ndarray:
        utf8(text)
        find, known = _WORD[self._split].findall, self._ids
        ids: list[int] = []
        for line in _LINE.split(text):
            if words := find(line):
                ids.append(EOS)  # of the line before
                ids.append(BOS)
                # A text that spells out </S> does not end there.
                ids.extend(index if (index := known.get(w, UNK)) > BOS else UNK for w in words)
        return np.array(ids[1:], np.uint32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        lines: list[list[str]] = [[]]
        for index in check_ids(ids, vocab_size=self.vocab_size).tolist():
            if index == EOS:
                lines.append([])
            elif index != BOS:
                lines[-1].append(self._words[index])
        return "\n".join(" ".join(line) for line in lines if line)

    def payload(self) -> dict[str, bytes]:
        settings = {"classes": self.classes, "split": self._split}
        return {
            VOCABULARY_FILE: "".join(f"{word}\n" for word in self._words).encode(),
            SETTINGS_FILE: (json.dumps(settings, indent=1) + "\n").encode(),
        }


def spell(words: Sequence[str], *, characters: int) -> np.ndarray:
    """Character ids u16[words, characters]: a word's begin, its bytes, as many as there is room
    for, its end, and padding; <S> and </S> consist of one id of their own."""
    spelled = np.full((len(words), characters), PAD, np.uint16)
    spelled[:, 0] = BEGIN_WORD
    for row, word in zip(spelled, words, strict=True):
        if word in (SPECIAL[BOS], SPECIAL[EOS]):
            inside = [BEGIN_SENTENCE if word == SPECIAL[BOS] else END_SENTENCE]
        else:
            inside = list(word.encode()[: characters - 2])
        row[1 : len(inside) + 1] = inside
        row[len(inside) + 1] = END_WORD
    return spelled


def shorten(spelling: np.ndarray, *, characters: int) -> np.ndarray:
    """The same words' ids with room for fewer characters, as `spell` gives them."""
    short = spelling[:, :characters].copy()
    cut = ~(short == END_WORD).any(1)
    short[cut, -1] = END_WORD
    return short


def train(texts: Iterable[str], *, classes: int, cap: int) -> WordTokenizer:
    """The most frequent words of the texts, ties by their letters; the same texts give the same
    ids. At most `cap` are kept, the three special ones included.

    Raises TokenizerError when there are fewer words than classes.
    """
    if cap < classes:
        raise TokenizerError(f"a table of at most {cap} words cannot hold {classes} classes")
    counts: Counter[str] = Counter()
    for text in texts:
        utf8(text)
        counts.update(_WORD["punctuation"].findall(text))
        if len(counts) > COUNTED_WORDS:
            counts = Counter({word: n for word, n in counts.items() if n > 1})
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    words = [*SPECIAL, *ordered][:cap]
    if len(words) < classes:
        raise TokenizerError(
            f"the texts give {len(words)} words, {classes} were asked for; "
            "train on more text or ask for a smaller vocabulary"
        )
    return WordTokenizer(words, classes=classes, split="punctuation")


def load_saved(folder: Path) -> WordTokenizer:
    """The tokenizer of a folder that `save_tokenizer` wrote."""
    path = folder / SETTINGS_FILE
    try:
        settings: Any = json.loads(read_file(path))
        classes, split = int(settings["classes"]), settings["split"]
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path}: damaged settings ({error!r}); save it again") from None
    words = _lines(folder / VOCABULARY_FILE)
    if (folder / BEYOND_FILE).is_file():
        words += _lines(folder / BEYOND_FILE)
    return WordTokenizer(words, classes=classes, split=split, source=str(folder))


def is_vocabulary(path: Path) -> bool:
    """Whether a vocab.txt is one of words: it begins with </S>, <S> and <UNK>, in any order."""
    try:
        with path.open(encoding="utf-8") as file:
            first = {file.readline().rstrip("\n") for _ in SPECIAL}
    except (OSError, UnicodeDecodeError):
        return False
    return first == set(SPECIAL)


def load_vocabulary(path: Path) -> WordTokenizer:
    """A published vocab.txt, a word per line; all of them are classes, and white space separates
    words, for its texts were split before it was made. Of an export of ours, the table that was."""
    words = _lines(path)
    if path.name == VOCABULARY_FILE and (path.parent / SETTINGS_FILE).is_file():
        return load_saved(path.parent)
    return WordTokenizer(words, classes=len(words), split="white_space", source=str(path))


def _lines(path: Path) -> list[str]:
    try:
        return read_file(path).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 ({error.reason})") from None
