"""Words without meaning, spelled at random, in packed rows: what ELMo's tests read."""

import numpy as np

from gesso.data.tokenizers.words import WordTokenizer
from gesso.models.config import ELMoConfig

SMALL = ELMoConfig(
    vocab=64,
    characters=8,
    character_embed=4,
    filters=((1, 4), (2, 6), (3, 6)),
    embed=16,
    cell=32,
    cell_clip=0.5,
    projection_clip=0.3,
    unroll=5,
)


def tokenizer(*, words=80, classes=64):
    random = np.random.default_rng(0)
    made = ["</S>", "<S>", "<UNK>"]
    while len(made) < words:
        word = "".join(random.choice(list("abcdefghij"), random.integers(1, 9)))
        made += [word] if word not in made else []
    return WordTokenizer(made, classes=classes, split="punctuation")


def rows_of(pieces, *, length, words=80):
    """Rows of data from the lengths of their pieces, one list a row; the rest is padding."""
    random = np.random.default_rng(1)
    shape = (len(pieces), length)
    made = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    for row, lengths in enumerate(pieces):
        at = 0
        for number, n in enumerate(lengths, 1):
            made["tokens"][row, at : at + n] = random.integers(0, words, n)
            made["segments"][row, at : at + n] = number
            made["positions"][row, at : at + n] = np.arange(n)
            at += n
    rows = np.arange(len(pieces))
    return made | {"component": np.zeros(len(pieces), np.int32), "row": rows}
