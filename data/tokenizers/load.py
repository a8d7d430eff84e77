"""Tokenizers: text to ids and back, with one fingerprint of their content.

`load_tokenizer` reads every supported form; `save_tokenizer` writes the folder that stores, runs
and exports carry. Bytes are here, the other kinds in `tokenizer_sentencepiece.py`,
`tokenizer_bpe.py` and so on.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from gesso.data.tokenizers.special import continues_of
from gesso.settings.nearest import nearest
from gesso.storage.files import write_durably

RECORD = "gesso_tokenizer.json"
SENTENCEPIECE_FILE = "sentencepiece.model"
BPE_FILE = "tokenizer.json"


class TokenizerError(ValueError):
    """A tokenizer that cannot be used, or a text it cannot take. The message says what to do."""


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer offers.

    kind: "bytes", "sentencepiece", "bpe", ...
    vocab_size: ids are in [0, vocab_size).
    eos: the id appended (by the caller) after every document.
    fingerprint: sha256 (hex) of the content; file names, folders and formatting do not enter.
    byte_lengths: i32[vocab_size], UTF-8 bytes each id stands for; 0 for special ids. Summed over
        `encode(text)` it is len(text.encode()) wherever the tokenizer round-trips exactly. (A
        foreign sentencepiece model that adds a leading space counts one more per document.)

    Where masked-token prediction can use it, also `special`, {"pad", "unk", "cls", "sep", "mask":
    id} as far as it has them, and `continues`, bool[vocab_size]: ids that go on with a word.
    """

    kind: str
    vocab_size: int
    eos: int
    fingerprint: str
    byte_lengths: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """u32[n] ids, without EOS or BOS. Special tokens spelled out in the text are plain text.

        Raises TokenizerError where the text has a lone surrogate.
        """
        ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids. Special ids are no text; broken UTF-8 becomes U+FFFD.

        Raises TokenizerError for an id outside the vocabulary.
        """
        ...

    def payload(self) -> dict[str, bytes]:
        """The files, by name, from which the tokenizer can be made again."""
        ...


class BytesTokenizer:
    """UTF-8 bytes as ids 0..255, and 256 for the end of a document."""

    kind = "bytes"
    vocab_size = 257
    eos = 256

    def __init__(self) -> None:
        self.fingerprint = content_fingerprint(kind=self.kind, eos=self.eos, content=b"utf-8")
        self.byte_lengths = np.ones(self.vocab_size, np.int32)
        self.byte_lengths[self.eos] = 0
        self.special: dict[str, int] = {}
        self.continues = continues_of([*(bytes([each]) for each in range(256)), b""])

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.uint32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = checked_ids(ids, vocab_size=self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def payload(self) -> dict[str, bytes]:
        return {}


def load_tokenizer(path_or_kind: str | Path, *, eos: str = "") -> Tokenizer:
    """Load a tokenizer from what it is called or where it is.

    path_or_kind: "bytes"; a folder made by `save_tokenizer`; a sentencepiece `.model` file; a
    `tokenizer.json` of byte-level BPE or WordPiece; a `vocab.txt` of WordPiece or of ELMo's words;
    a folder that holds one of these or `vocab.json` and `merges.txt`. A saved folder whose content
    does not match its fingerprint is refused.

    eos: the token that ends documents. Empty: the `eos_token` named by a tokenizer_config.json or
    special_tokens_map.json beside the file, else `<|endoftext|>`, else `</s>`.

    Raises TokenizerError for a missing, empty, truncated or foreign file, a fingerprint that does
    not match, and a vocabulary without an end-of-document token.
    """
    if str(path_or_kind) == "bytes":
        return BytesTokenizer()
    path = Path(path_or_kind).expanduser()
    if not path.exists():
        raise TokenizerError(_not_found(path))
    if (path / RECORD).is_file():
        return _load_saved(path)
    return _load_foreign(path, eos=eos)


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a folder from which `load_tokenizer` makes a tokenizer with the same fingerprint.

    The record is written last (and atomically), so that a folder with a record is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.payload().items():
        write_durably(folder / name, content)
    record = {
        "format": 1,
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "fingerprint": tokenizer.fingerprint,
    }
    write_durably(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def train_sentencepiece(
    texts: Iterator[str],
    *,
    vocab_size: int,
    kind: Literal["unigram", "bpe"] = "bpe",
    folder: str | Path,
) -> Tokenizer:
    """Train a sentencepiece model that round-trips every text exactly, and save it in `folder`."""
    from gesso.data.tokenizers.sentencepiece import train

    tokenizer = train(texts, vocab_size=vocab_size, kind=kind)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_bpe(texts: Iterator[str], *, vocab_size: int, folder: str | Path) -> Tokenizer:
    """Train GPT-2-style byte-level BPE with `<|endoftext|>` as its last id; save it in `folder`."""
    from gesso.data.tokenizers.bpe import train

    tokenizer = train(texts, vocab_size=vocab_size)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_wordpiece(
    texts: Iterator[str], *, vocab_size: int, lowercase: bool = True, folder: str | Path
) -> Tokenizer:
    """Train BERT's WordPiece, uncased or cased; save it in `folder`. It does not give texts back
    exactly (data/tokenizers/wordpiece.py says what is lost)."""
    from gesso.data.tokenizers.wordpiece import train

    tokenizer = train(texts, vocab_size=vocab_size, lowercase=lowercase)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_words(texts: Iterator[str], *, classes: int, cap: int, folder: str | Path) -> Tokenizer:
    """Train ELMo's table of words, of which the first `classes` are told apart by a softmax and at
    most `cap` are known by their spelling; save it in `folder`. White space is lost."""
    from gesso.data.tokenizers.words import train

    tokenizer = train(texts, classes=classes, cap=cap)
    save_tokenizer(tokenizer, folder)
    return tokenizer


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


def checked_ids(ids: Sequence[int] | np.ndarray, *, vocab_size: int) -> np.ndarray:
    """The ids as i64[n]. Raises TokenizerError for one outside [0, vocab_size)."""
    array = np.asarray(ids, np.int64).reshape(-1)
    bad = array[(array < 0) | (array >= vocab_size)]
    if bad.size:
        raise TokenizerError(f"id {bad[0]} is outside the vocabulary of {vocab_size} ids")
    return array


def _load_saved(folder: Path) -> Tokenizer:
    record = _read_record(folder / RECORD)
    kind, eos = record["kind"], record["eos"]
    if kind == "bytes":
        tokenizer: Tokenizer = BytesTokenizer()
    elif kind == "sentencepiece":
        from gesso.data.tokenizers.sentencepiece import SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer(read_file(folder / SENTENCEPIECE_FILE), eos=eos)
    elif kind == "bpe":
        from gesso.data.tokenizers.bpe import BPETokenizer, parse_json

        tokenizer = BPETokenizer(parse_json(folder / BPE_FILE), eos=eos)
    elif kind == "wordpiece":
        from gesso.data.tokenizers.bpe import parse_json
        from gesso.data.tokenizers.wordpiece import WordPieceTokenizer

        tokenizer = WordPieceTokenizer(parse_json(folder / BPE_FILE), eos=eos)
    elif kind == "words":
        from gesso.data.tokenizers.words import load_saved

        tokenizer = load_saved(folder)
    else:
        raise TokenizerError(
            f"{folder / RECORD}: unknown kind {kind!r}; known: bytes, sentencepiece, bpe, "
            "wordpiece, words (a newer version may have written it)"
        )
    if tokenizer.fingerprint != record["fingerprint"]:
        raise TokenizerError(
            f"{folder}: the content does not match its fingerprint "
            f"(recorded {record['fingerprint'][:12]}, found {tokenizer.fingerprint[:12]}); "
            "the files were changed or damaged after they were saved: restore them from where they "
            "came, or import the tokenizer again"
        )
    return tokenizer


def _load_foreign(path: Path, *, eos: str) -> Tokenizer:
    if path.is_dir():
        path = _file_in(path)
    if path.suffix == ".model":
        from gesso.data.tokenizers.sentencepiece import load_model

        return load_model(path, eos=eos)
    if path.name.endswith("vocab.txt") or path.match("vocab*.txt"):
        from gesso.data.tokenizers import words as tokenizer_words

        if tokenizer_words.is_vocabulary(path):
            return tokenizer_words.load_vocabulary(path)
        from gesso.data.tokenizers.wordpiece import load_vocabulary

        return load_vocabulary(path, eos=eos)
    if path.suffix == ".json":
        from gesso.data.tokenizers.bpe import load_files, parse_json

        content = parse_json(path)
        model = content.get("model")
        if isinstance(model, dict) and model.get("type") == "WordPiece":
            from gesso.data.tokenizers.wordpiece import load_definition

            return load_definition(content, path, eos=eos)
        return load_files(path, eos=eos)
    raise TokenizerError(
        f"{path}: not a form of tokenizer that is known; give 'bytes', a folder, a sentencepiece "
        ".model file, or a tokenizer.json"
    )


def _file_in(folder: Path) -> Path:
    names = sorted(entry.name for entry in folder.iterdir())
    for name in (BPE_FILE, "vocab.json", "vocab.txt", SENTENCEPIECE_FILE):
        if name in names:
            return folder / name
    models = [name for name in names if name.endswith(".model")]
    if len(models) == 1:
        return folder / models[0]
    if models:
        raise TokenizerError(f"{folder}: holds several models ({', '.join(models)}); name one")
    raise TokenizerError(
        f"{folder}: no tokenizer in it; looked for {RECORD}, {BPE_FILE}, vocab.json with "
        f"merges.txt, vocab.txt, or one .model file; it holds {', '.join(names[:8]) or 'nothing'}"
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        types = {"format": int, "kind": str, "eos": int, "fingerprint": str}
        if all(isinstance(record.get(name), kind) for name, kind in types.items()):
            return record
    except (ValueError, AttributeError) as error:
        raise TokenizerError(
            f"{path}: damaged record ({error}); save the tokenizer again"
        ) from None
    raise TokenizerError(f"{path}: the record lacks one of {', '.join(types)}; save it again")


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


def _not_found(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, [*siblings, "bytes"])
    if close and close[0] in siblings:
        hint = f"did you mean {path.parent / close[0]}?"
    elif close:
        hint = "did you mean 'bytes'?"
    elif not path.parent.is_dir():
        hint = f"the folder {path.parent} does not exist either"
    else:
        hint = "give 'bytes', a folder, a .model file or a tokenizer.json"
    return f"no tokenizer at {path}; {hint}"
