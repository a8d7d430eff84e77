"""From raw records to documents: parse, check, hash, count and tokenize a batch of them.

These are pure functions of the record and the settings, so it does not matter which process runs
them: see `workers.py`.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gesso.data.text.rejects import Reject, reject
from gesso.data.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class DocumentRules:
    """What a record must look like, and which side of the holdout a document falls on."""

    text_key: str
    component_key: str
    max_document_bytes: int
    holdout: float
    dtype: str


class Batch(NamedTuple):
    """Raw records of one source.

    form: "json" (a JSON object per record) or "text" (the record is the document).
    records: (raw bytes, length in bytes, component) each. Where the length exceeds the raw bytes
        the record was too long to be held and only its head is here. component: given by the
        source, "" where the record itself may say it. None as raw: a null in a table.
    fallback: the component of records that do not say one.
    """

    form: Literal["json", "text"]
    records: list[tuple[bytes | None, int, str]]
    fallback: str


class Document(NamedTuple):
    """A document's account. tokens: with its EOS; bytes: of UTF-8; hash: of the text, u64."""

    component: str
    split: Literal["train", "holdout"]
    tokens: int
    bytes: int
    words: int
    hash: int


class Encoded(NamedTuple):
    """A batch, tokenized. tokens: the documents one after the other, an EOS after each."""

    tokens: np.ndarray
    items: list[Document | Reject]


def encode(batch: Batch, *, rules: DocumentRules, tokenizer: Tokenizer) -> Encoded:
    """Tokenize a batch. items has one entry per record, in order."""
    texts: list[str] = []
    items: list[Document | Reject] = []
    for raw, length, component in batch.records:
        found = _read(raw, length, component or None, batch=batch, rules=rules)
        if isinstance(found, Reject):
            items.append(found)
            continue
        text, component = found
        content = _content(text, raw)
        if isinstance(content, Reject):
            items.append(content)
            continue
        digest = text_hash(content)
        split = "holdout" if is_held_out(digest, rules.holdout) else "train"
        items.append(Document(component, split, 0, len(content), count_words(content), digest))
        texts.append(text)
    ids = _encode_texts(texts, tokenizer)
    kept, place = [], 0
    for position, item in enumerate(items):
        if isinstance(item, Reject):
            continue
        found, text = ids[place], texts[place]
        place += 1
        if isinstance(found, str):
            items[position] = reject("not_encodable", found, text[:400].encode())
            continue
        items[position] = item._replace(tokens=len(found) + 1)
        kept.append(found)
    return Encoded(_join(kept, tokenizer=tokenizer, dtype=np.dtype(rules.dtype)), items)


def text_hash(content: bytes) -> int:
    """u64 of a document's UTF-8. Equal texts have equal hashes, whatever their component."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_held_out(digest: int, share: float) -> bool:
    """Whether a text with this hash is kept out of training."""
    return digest < int(share * 2**64)


def count_words(content: bytes) -> int:
    """Runs of bytes other than ASCII white space: len(content.split()), an order faster."""
    byte = np.frombuffer(content, np.uint8)
    space = (byte == 32) | ((byte - np.uint8(9)) < 5)  # 9..13; smaller bytes wrap to large ones
    return int(np.count_nonzero(space[:-1] > space[1:])) + int(not space[0])


def _read(
    raw: bytes | None, length: int, component: str | None, *, batch: Batch, rules: DocumentRules
) -> tuple[str, str] | Reject:
    """(text, component) of a record, or why it has none."""
    if raw is None:
        return reject("missing_key", f"{rules.text_key!r} is null", b"")
    if length > rules.max_document_bytes:
        return reject("oversize", f"{length} bytes; the limit is {rules.max_document_bytes}", raw)
    if batch.form == "text" and not raw:
        return reject("empty_text", "", raw)
    if not raw.strip():
        return reject("blank_record", "", raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return reject("invalid_utf8", f"byte {error.start}: {error.reason}", raw)
    if batch.form == "text":
        return text, component or batch.fallback
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return reject("bad_json", str(error) or "nested too deeply", raw)
    if not isinstance(record, dict):
        return reject("not_an_object", f"a JSON {type(record).__name__}", raw)
    value = _dig(record, rules.text_key)
    if value is None:
        return reject("missing_key", f"no {rules.text_key!r}; it has {sorted(record)[:6]}", raw)
    if not isinstance(value, str):
        return reject("wrong_type", f"{rules.text_key!r} is a {type(value).__name__}", raw)
    if not value:
        return reject("empty_text", "", raw)
    if component is None and rules.component_key:
        named = _dig(record, rules.component_key)
        if named is not None and not isinstance(named, str):
            kind = type(named).__name__
            return reject("wrong_type", f"{rules.component_key!r} is a {kind}", raw)
        component = named
    return value, component or batch.fallback


def _content(text: str, raw: bytes | None) -> bytes | Reject:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X} at character {error.start}"
        return reject("lone_surrogate", code, raw or b"")


def _dig(record: dict, key: str) -> object:
    """The value under a dotted key; a key that has a dot itself is found too. None: nothing."""
    if key in record:
        return record[key]
    value: object = record
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _encode_texts(texts: list[str], tokenizer: Tokenizer) -> list[np.ndarray | str]:
    """Ids of each text, or the message with which the tokenizer refused it."""
    try:
        return list(tokenizer.encode_batch(texts))
    except (ValueError, RuntimeError, TypeError):
        pass  # one text of the batch is bad: find out which
    out: list[np.ndarray | str] = []
    for text in texts:
        try:
            out.append(tokenizer.encode(text))
        except (ValueError, RuntimeError, TypeError) as error:
            out.append(str(error) or type(error).__name__)
    return out


def _join(ids: list[np.ndarray], *, tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray:
    joined = np.full(sum(map(len, ids)) + len(ids), tokenizer.eos, dtype)
    at = 0
    for piece in ids:
        # A u2 store would wrap a larger id around without a word.
        assert not len(piece) or int(piece.max()) < tokenizer.vocab_size, "id outside vocabulary"
        joined[at : at + len(piece)] = piece
        at += len(piece) + 1
    return joined
