"""The contract of every tokenizer, and what all of them are made with.

bytes.py, bpe.py and the others fulfil it; `load_tokenizer` (load.py) makes one.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SENTENCEPIECE_FILE = "sentencepiece.model"


BPE_FILE = "tokenizer.json"
# A JSON object as others write it, whose fields are checked where they are read.
Json = dict[str, Any]


class TokenizerError(ValueError):
    """A tokenizer that cannot be used, or a text it cannot take. The message says what to do."""


class Tokenizer(ABC):
    """Text to ids and back.

    kind: "bytes", "sentencepiece", "bpe", ...
    vocab_size: ids are in [0, vocab_size).
    eos: the id appended (by the caller) after every document.
    fingerprint: sha256 (hex) of the content; file names, folders and formatting do not enter.
    byte_lengths: i32[vocab_size], UTF-8 bytes each id stands for; 0 for special ids. Summed over
        `encode(text)` it is len(text.encode()) wherever the tokenizer round-trips exactly. (A
        foreign sentencepiece model that adds a leading space counts one more per document.)
    special: {"pad", "unk", "cls", "sep", "mask": id}, as far as it has them.
    continues: bool[vocab_size]: ids that go on with the word of the id before them.
    """

    kind: str
    vocab_size: int
    eos: int
    fingerprint: str
    byte_lengths: np.ndarray
    special: Mapping[str, int]
    continues: np.ndarray

    @property
    def classes(self) -> int:
        """How many of the first ids a softmax tells apart: all, but for words known by their
        spelling alone."""
        return self.vocab_size

    @property
    def spelling(self) -> np.ndarray | None:
        """u16[vocab_size, characters]: the character ids of every id, where a model reads those."""
        return None

    @property
    def engine(self) -> str:
        """The library that does the work. It never changes an id."""
        return self.kind

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integers that hold every id: what stores are written in."""
        return np.dtype("<u2") if self.vocab_size <= 1 << 16 else np.dtype("<u4")

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """u32[n] ids, without EOS or BOS. Special tokens spelled out in the text are plain text.

        Raises TokenizerError where the text has a lone surrogate.
        """

    @abstractmethod
    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids. Special ids give no text; broken UTF-8 becomes U+FFFD.

        Raises TokenizerError for an id outside the vocabulary.
        """

    @abstractmethod
    def payload(self) -> dict[str, bytes]:
        """The files, by name, from which the tokenizer can be made again."""


def content_fingerprint(*, kind: str, eos: int, content: bytes) -> str:
    """sha256 (hex) of a tokenizer's kind, end-of-document id and canonical content."""
    head = json.dumps({"kind": kind, "eos": eos, "bytes": len(content)}).encode()
    return hashlib.sha256(head + b"\n" + content).hexdigest()


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text. Raises TokenizerError where it has a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}, which no UTF-8 can hold; drop or repair the document "
            "(the corpus builder quarantines it as lone_surrogate)"
        ) from None


def check_ids(ids: Sequence[int] | np.ndarray, *, vocab_size: int) -> np.ndarray:
    """The ids as i64[n]. Raises TokenizerError for one outside [0, vocab_size)."""
    array = np.asarray(ids, np.int64).reshape(-1)
    bad = array[(array < 0) | (array >= vocab_size)]
    if bad.size:
        raise TokenizerError(f"id {bad[0]} is outside the vocabulary of {vocab_size} ids")
    return array


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises TokenizerError for one that is missing, empty or a pickle."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from None
    if not content:
        raise TokenizerError(f"{path}: the file is empty; copy or download it again")
    if content.startswith(b"version https://git-lfs"):
        raise TokenizerError(f"{path}: a Git LFS pointer, not the file; run `git lfs pull`")
    if content[:1] == b"\x80" or content[:4] == b"PK\x03\x04":
        raise TokenizerError(
            f"{path}: a pickle or archive, which is never loaded (it could run code); "
            "give the tokenizer.json or .model file it was made from"
        )
    return content
