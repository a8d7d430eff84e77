"""What masked-token prediction asks of a vocabulary: its special tokens, and where words begin."""

from collections.abc import Mapping, Sequence

import numpy as np

# role -> how vocabularies spell it: BERT's and ALBERT's, then RoBERTa's and XLM-R's
SPELLINGS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
# Scripts written without spaces: every character may begin a word.
_SPACELESS = ((0x0E00, 0x0EFF), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF),
              (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # fmt: skip


def special_of(ids: Mapping[str, int]) -> dict[str, int]:
    """{role: id} of those special tokens that a vocabulary (token -> id) has."""
    return {
        role: next(ids[spelling] for spelling in spellings if spelling in ids)
        for role, spellings in SPELLINGS.items()
        if not ids.keys().isdisjoint(spellings)
    }


def continues_of(pieces: Sequence[bytes]) -> np.ndarray:
    """bool[ids]: whether a token goes on with the word of the token before it, for vocabularies
    whose tokens carry their leading space. pieces: the UTF-8 bytes of each.

    A letter or a digit at the front continues; white space and punctuation begin. So do characters
    of scripts that put no spaces between words; a part of a character continues.
    """
    return np.array([_continues(piece) for piece in pieces], bool)


def _continues(piece: bytes) -> bool:
    first = piece.decode("utf-8", "replace")[:1]
    if first == "\ufffd":
        return True
    return first.isalnum() and not any(low <= ord(first) <= high for low, high in _SPACELESS)
