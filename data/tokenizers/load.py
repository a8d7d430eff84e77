"""From a name, file or folder to a tokenizer, and from texts to a new one.

`load_tokenizer` reads every supported form; `save_tokenizer` writes the folder that stores, runs
and exports carry. What a tokenizer is stands in base.py, the kinds in bytes.py, bpe.py and so on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gesso.data.tokenizers import bpe, sentencepiece, wordpiece, words
from gesso.data.tokenizers.base import (
    BPE_FILE,
    SENTENCEPIECE_FILE,
    Json,
    Tokenizer,
    TokenizerError,
    read_file,
)
from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.settings.nearest import nearest
from gesso.storage.files import write_durably

RECORD = "gesso_tokenizer.json"


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
    tokenizer = sentencepiece.train(texts, vocab_size=vocab_size, kind=kind)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_bpe(texts: Iterator[str], *, vocab_size: int, folder: str | Path) -> Tokenizer:
    """Train GPT-2-style byte-level BPE with `<|endoftext|>` as its last id; save it in `folder`."""
    tokenizer = bpe.train(texts, vocab_size=vocab_size)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_wordpiece(
    texts: Iterator[str], *, vocab_size: int, lowercase: bool = True, folder: str | Path
) -> Tokenizer:
    """Train BERT's WordPiece, uncased or cased; save it in `folder`. It does not give texts back
    exactly (data/tokenizers/wordpiece.py says what is lost)."""
    tokenizer = wordpiece.train(texts, vocab_size=vocab_size, lowercase=lowercase)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def train_words(texts: Iterator[str], *, classes: int, cap: int, folder: str | Path) -> Tokenizer:
    """Train ELMo's table of words, of which the first `classes` are told apart by a softmax and at
    most `cap` are known by their spelling; save it in `folder`. White space is lost."""
    tokenizer = words.train(texts, classes=classes, cap=cap)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def _load_saved(folder: Path) -> Tokenizer:
    record = _read_record(folder / RECORD)
    kind, eos = record["kind"], record["eos"]
    if kind == "bytes":
        tokenizer: Tokenizer = BytesTokenizer()
    elif kind == "sentencepiece":
        model = read_file(folder / SENTENCEPIECE_FILE)
        tokenizer = sentencepiece.SentencePieceTokenizer(model, eos=eos)
    elif kind == "bpe":
        tokenizer = bpe.BPETokenizer(bpe.parse_json(folder / BPE_FILE), eos=eos)
    elif kind == "wordpiece":
        tokenizer = wordpiece.WordPieceTokenizer(bpe.parse_json(folder / BPE_FILE), eos=eos)
    elif kind == "words":
        tokenizer = words.load_saved(folder)
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
        return sentencepiece.load_model(path, eos=eos)
    if path.name.endswith("vocab.txt") or path.match("vocab*.txt"):
        if words.is_vocabulary(path):
            return words.load_vocabulary(path)
        return wordpiece.load_vocabulary(path, eos=eos)
    if path.suffix == ".json":
        content = bpe.parse_json(path)
        model = content.get("model")
        if isinstance(model, dict) and model.get("type") == "WordPiece":
            return wordpiece.load_definition(content, path, eos=eos)
        return bpe.load_files(path, eos=eos)
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


def _read_record(path: Path) -> Json:
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
