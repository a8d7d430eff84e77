"""The files of a store of instruction examples, written: data/instructions/store.py reads them.
And how a prompt and its target become tokens."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gesso.data.instructions.store import FILES, RECORD
from gesso.data.tokenizers.base import Tokenizer

_UNITS: tuple[str, ...] = ("documents", "tokens", "bytes", "words", "targets")


def encode_pairs(
    asked: Sequence[tuple[str, str]], tokenizer: Tokenizer
) -> list[tuple[np.ndarray, int]]:
    """(ids u32[n], how many of them are the prompt's) of each (prompt, target).

    Tokenized apart: what a prompt becomes never depends on its target, and no token belongs to
    both. The target ends with the end-of-document id; without a prompt, the end of another document
    is what it follows.
    """
    # A sentencepiece model of others puts a space before every text by itself.
    adds_space = int(tokenizer.byte_lengths[tokenizer.encode("a")].sum()) > 1
    targets = [target.removeprefix(" ") if adds_space else target for _, target in asked]
    heads = tokenizer.encode_batch([prompt for prompt, _ in asked])
    made = []
    for head, tail in zip(heads, tokenizer.encode_batch(targets), strict=True):
        head = head if len(head) else np.array([tokenizer.eos], np.uint32)
        made.append((np.concatenate((head, tail, [tokenizer.eos])).astype(np.uint32), len(head)))
    return made


class Writer:
    """Appends pieces; `finish` writes the record, so that a folder that has one is complete. A
    context manager that closes its files."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._dtype = tokenizer.dtype
        self._byte_lengths = tokenizer.byte_lengths
        self._files = {str(name): (folder / name).open("wb") for name in FILES}
        self._hashes = {name: hashlib.sha256() for name in self._files}
        self._sizes = {name: 0 for name in self._files}  # noqa: C420  in bytes
        self._totals: dict[str, dict[str, dict[str, int]]] = {}
        self._end = self.pieces = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, ids: np.ndarray, predicted: np.ndarray) -> None:
        """One piece: ids[n], predicted u8[n], at least one of which is."""
        self._end += len(ids)
        self.pieces += 1
        self._append("tokens.bin", ids.astype(self._dtype))
        self._append("targets.bin", predicted.astype(np.uint8))
        self._append("ends.bin", np.array([self._end], "<i8"))
        self._append("heads.bin", np.array([int(np.argmax(predicted))], "<i4"))

    def count(
        self, component: str, split: str, ids: np.ndarray, predicted: np.ndarray, text: str
    ) -> None:
        """Count one rendering of an example in the totals."""
        empty = {each: dict.fromkeys(_UNITS, 0) for each in ("train", "holdout")}
        of = self._totals.setdefault(component, empty)[split]
        of["documents"] += 1
        of["tokens"] += len(ids)
        of["bytes"] += int(self._byte_lengths[ids].sum())
        of["words"] += len(text.split())
        of["targets"] += int(predicted.sum())

    def finish(self, record: dict[str, Any]) -> None:
        """Close the files and write the record, with what it takes to read and verify them."""
        for file in self._files.values():
            file.close()
        record = record | {
            "dtype": self._dtype.str,
            "totals": dict(sorted(self._totals.items())),
            "files": {
                name: {"bytes": self._sizes[name], "sha256": self._hashes[name].hexdigest()}
                for name in FILES
            },
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (self._folder / RECORD).write_text(text)

    def _append(self, name: str, values: np.ndarray) -> None:
        content = values.tobytes()
        self._files[name].write(content)
        self._hashes[name].update(content)
        self._sizes[name] += len(content)
