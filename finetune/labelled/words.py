"""Words as tokens: which tokens a word becomes, and which words of a text an answer is."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gesso.data.tokenizers.base import Tokenizer

# A word, one character of a script that is written without spaces, or one of punctuation.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


class Words:
    """A tokenizer asked word by word, each as it stands in a text: behind a space or not. What a
    word becomes is remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A sentencepiece model of others puts a space before every text by itself.
        self._adds_space = int(tokenizer.byte_lengths[tokenizer.encode("a")].sum()) > 1
        self._known: dict[str, np.ndarray] = {}

    def encode(self, words: Sequence[str], spaced: Sequence[bool]) -> list[np.ndarray]:
        """Tokens of each word, u32[n]; spaced: whether white space stands before it."""
        asked = [
            " " + word if space and not self._adds_space else word
            for word, space in zip(words, spaced, strict=True)
        ]
        new = [each for each in dict.fromkeys(asked) if each not in self._known]
        for text, ids in zip(new, self._tokenizer.encode_batch(new), strict=True):
            self._known[text] = ids
        return [self._known[each] for each in asked]


class Context(NamedTuple):
    """A text word by word. tokens: u32[n]; characters: i32[n, 2], where the word of each token
    begins and ends in the text."""

    tokens: np.ndarray
    characters: np.ndarray


def context_of(text: str, words: Words) -> Context:
    """A text's tokens and where they are in it."""
    found = [(each.start(), each.end()) for each in _WORD.finditer(text)]
    spaced = [begin > 0 and text[begin - 1].isspace() for begin, _ in found]
    pieces = words.encode([text[begin:end] for begin, end in found], spaced)
    sizes = [len(each) for each in pieces]
    characters = np.repeat(np.array(found, np.int32).reshape(-1, 2), sizes, axis=0)
    return Context(np.concatenate([np.zeros(0, np.uint32), *pieces]), characters)


def span_of(context: Context, begin: int, end: int) -> tuple[int, int] | None:
    """(first, last) token of the words that characters begin to end - 1 lie in; None where no
    token does."""
    inside = (context.characters[:, 0] < end) & (context.characters[:, 1] > begin)
    at = np.flatnonzero(inside)
    return (int(at[0]), int(at[-1])) if len(at) else None
