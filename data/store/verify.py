"""Proof of a token store: every committed byte read again and checked against its record."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gesso.data.store.base import SPLITS
from gesso.data.store.identity import fingerprint
from gesso.data.store.parts import Account, Commit, part_file, slug, tokens_suffix
from gesso.data.tokenizers.base import Tokenizer


class StoreFiles(Protocol):
    """What is read of a store here. meta: its meta.json. dtype: of its tokens."""

    folder: Path
    meta: dict[str, Any]
    fingerprint: str
    dtype: np.dtype
    eos: int

    def tokenizer(self) -> Tokenizer:
        """The copy kept in the store. Raises ValueError if it is damaged."""
        ...

    def shard_folder(self, shard: int) -> Path:
        """Where a shard's parts are."""
        ...


def problems(store: StoreFiles, commits: list[list[Commit]]) -> Iterator[str]:
    """What is wrong with a store, a line each.

    Checked: fingerprint, tokenizer, checksums and sizes, ids inside the vocabulary, an EOS at each
    document's end, offsets, counts, records in == documents + rejects, and that parts join up.
    """
    identity = {key: value for key, value in store.meta.items() if key != "fingerprint"}
    if fingerprint(identity) != store.fingerprint:
        yield f"{store.folder / 'meta.json'}: does not match its fingerprint"
    try:
        if store.tokenizer().fingerprint != store.meta["tokenizer"]:
            yield f"{store.folder / 'tokenizer'}: not the tokenizer the store was built with"
    except ValueError as error:
        yield str(error)
    names: dict[str, str] = {}
    for shard, parts in enumerate(commits):
        folder = store.shard_folder(shard)
        reached: dict[str, Any] | None = None
        for number, part in enumerate(parts):
            where = part_file(folder, number, "json")
            if reached is not None and part["start"] != reached:
                yield f"{where}: starts elsewhere than the part before it ends"
            reached = part["end"]
            yield from _part_problems(store, folder, number, part)
            for component, splits in part["components"].items():
                if splits["file"] != slug(component):
                    yield f"{where}: component {component!r} is stored as {splits['file']!r}"
                if names.setdefault(splits["file"], component) != component:
                    yield (
                        f"{where}: components {names[splits['file']]!r} and {component!r} "
                        f"share the file name {splits['file']!r}"
                    )


def _part_problems(store: StoreFiles, folder: Path, number: int, part: Commit) -> Iterator[str]:
    where = part_file(folder, number, "json")
    documents = 0
    for splits in part["components"].values():
        for split in (name for name in SPLITS if name in splits):
            documents += splits[split]["documents"]
            path = part_file(folder, number, tokens_suffix(splits["file"], split))
            yield from _run_problems(store, path, splits[split])
    rejected = sum(part["rejects"].values())
    if part["records"] != documents + rejected:
        yield (
            f"{where}: {part['records']} records in, but {documents} documents and "
            f"{rejected} rejects out"
        )
    hashes = _read(part_file(folder, number, "hash"))
    if len(hashes) != 8 * documents or zlib.crc32(hashes) != part["hash_crc32"]:
        yield f"{part_file(folder, number, 'hash')}: missing or damaged"
    if rejected:
        kept = _read(part_file(folder, number, "rejects.jsonl"))
        if kept.count(b"\n") != rejected or zlib.crc32(kept) != part["rejects_crc32"]:
            yield f"{part_file(folder, number, 'rejects.jsonl')}: missing or damaged"


def _run_problems(store: StoreFiles, path: Path, account: Account) -> Iterator[str]:
    tok, off = path.with_name(f"{path.name}.tok"), path.with_name(f"{path.name}.off")
    tokens_raw, offsets_raw = _read(tok), _read(off)
    good = True
    for file, raw, size, crc in (
        (tok, tokens_raw, account["tokens"] * store.dtype.itemsize, account["tok_crc32"]),
        (off, offsets_raw, 8 * account["documents"] + 8, account["off_crc32"]),
    ):
        if len(raw) != size:
            good = False
            yield f"{file}: {len(raw)} bytes, its commit record says {size}"
        elif zlib.crc32(raw) != crc:
            good = False
            yield f"{file}: damaged (checksum)"
    if not good:
        return
    tokens, offsets = np.frombuffer(tokens_raw, store.dtype), np.frombuffer(offsets_raw, "<i8")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 1).any():
        yield f"{off}: offsets do not rise from 0 to {len(tokens)}"
    elif len(offsets) > 1 and (tokens[offsets[1:] - 1] != store.eos).any():
        yield f"{tok}: a document does not end with the end-of-document token {store.eos}"
    if len(tokens) and int(tokens.max()) >= store.meta["vocab_size"]:
        yield f"{tok}: an id outside the vocabulary of {store.meta['vocab_size']}"


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
