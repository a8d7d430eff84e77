"""A vocabulary as a list of pieces, which several stacks ask for, out of a tokenizer's files."""

import json
from collections.abc import Mapping
from typing import Any

from gesso.export.files.tensors import FolderError


def pieces_of(files: Mapping[str, bytes], *, vocab: int) -> list[str]:
    """One piece for each of the model's `vocab` rows; "<row i>" where the tokenizer has none.

    files: {name: content}, tokenizer.json among them, or none at all. Raises FolderError without
    it, for an id that the model has no row for, and where two ids are spelled alike.
    """
    ids: dict[str, int] = {}
    if files:
        if "tokenizer.json" not in files:
            raise FolderError(
                f"no tokenizer.json among {', '.join(files)}; import the tokenizer first (gesso"
                " tokenizer import)"
            )
        definition = json.loads(files["tokenizer.json"])
        ids = _ids(definition["model"].get("vocab", {}))
        ids |= {each["content"]: each["id"] for each in definition.get("added_tokens") or []}
    if ids and max(ids.values()) >= vocab:
        raise FolderError(
            f"the tokenizer has an id {max(ids.values())}, and the model {vocab} rows"
        )
    spelled = {index: piece for piece, index in ids.items()}
    pieces = [spelled.get(index, f"<row {index}>") for index in range(vocab)]
    if len(set(pieces)) < len(pieces):
        twice = next(each for each in pieces if pieces.count(each) > 1)
        raise FolderError(f"two ids are spelled {twice!r}, and this format tells them by name")
    return pieces


def special_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """{"eos_token": "</s>", ...} as tokenizer_config.json says."""
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    named = {name: value for name, value in settings.items() if name.endswith("_token")}
    return {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if isinstance(value, (str, dict))
    }


def _ids(vocab: Any) -> dict[str, int]:
    """Of BPE and WordPiece a map, of Unigram a list of [piece, score]."""
    if isinstance(vocab, dict):
        return dict(vocab)
    return {piece: index for index, (piece, _) in enumerate(vocab)}
