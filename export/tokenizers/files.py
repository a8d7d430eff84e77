"""Our tokenizers as the files that other stacks read: the old spellings and tokenizer.json.

A tokenizer is whatever has kind, vocab_size, eos, encode and payload() (data.tokenizers.load); none
of `data` is imported here. What was written is loaded with `tokenizers` and compared on texts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gesso.export.files.tensors import FolderError, Record
from gesso.export.tokenizers.sentencepiece import definition_of

END_OF_TEXT = "<|endoftext|>"
# What tokenizers get wrong: spaces, contractions, digits, accents, scripts, bytes beyond any piece.
PROBES = (
    "The quick brown fox's tail; it's, we'll o'clock. 3.14159 x2",
    "  two leading, three   inside, one trailing ",
    "def f(x):\n\treturn  x ** 2\r\n\n\n",
    "caf\u00e9 cafe\u0301 \u00fcber \u65e5\u672c\u8a9e \u0661\u0662 \U0001f600\u200d",
    "<b>tags</b> [CLS] [unk] ## and @@ http://example.org/?a=b",
)


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """files: {name: content}. ids: the special ids that config.json repeats."""

    files: dict[str, bytes] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


class Tokenizer(Protocol):
    """What is read of a tokenizer of ours (data/tokenizers/base.py)."""

    @property
    def kind(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def special(self) -> Mapping[str, int]: ...
    def encode(self, text: str) -> np.ndarray: ...
    def payload(self) -> Mapping[str, bytes]: ...


# Ours, the files of an imported one, or none.
GivenTokenizer = Tokenizer | Mapping[str, bytes] | None


def files_of(
    tokenizer: GivenTokenizer, *, model_type: str, vocab: int, longest: int | None
) -> TokenizerFiles:
    """The files of a tokenizer of ours; of {name: content} just those; of None none.

    longest: the most tokens the model reads. Raises FolderError for a tokenizer with more ids than
    the model's `vocab` rows, of a kind that has no published form, or whose files give other ids.
    """
    if tokenizer is None:
        return TokenizerFiles()
    if isinstance(tokenizer, Mapping):
        return TokenizerFiles(files=dict(tokenizer))
    if tokenizer.vocab_size > vocab:
        raise FolderError(
            f"the tokenizer has {tokenizer.vocab_size} ids, and the model {vocab} rows for them"
        )
    kinds = {"bytes": _bytes, "bpe": _bpe, "wordpiece": _wordpiece, "sentencepiece": _sentencepiece}
    if tokenizer.kind not in kinds:
        raise FolderError(
            f"a tokenizer of kind {tokenizer.kind!r} has no published files; those of"
            f" {', '.join(kinds)} have"
        )
    definition, settings, files, ids = kinds[tokenizer.kind](tokenizer, model_type)
    _compare(definition, tokenizer)
    if longest:
        settings["model_max_length"] = longest
    special = {name: text for name, text in settings.items() if name.endswith("_token")}
    files |= {
        "tokenizer.json": _json(definition),
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(special),
    }
    return TokenizerFiles(files=files, ids=ids)


_Made = tuple[dict[str, Any], dict[str, Any], dict[str, bytes], dict[str, int]]


def _bpe(tokenizer: Tokenizer, model_type: str) -> _Made:
    return _byte_level(json.loads(tokenizer.payload()["tokenizer.json"]), tokenizer)


def _bytes(tokenizer: Tokenizer, model_type: str) -> _Made:
    """Byte-level BPE without a merge: every byte is its own id."""
    vocab = {letter: byte for byte, letter in enumerate(_byte_letters())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(END_OF_TEXT, tokenizer.eos)],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab | {END_OF_TEXT: tokenizer.eos},
            "merges": [],
        },
    }
    return _byte_level(definition, tokenizer)


def _byte_level(definition: Record, tokenizer: Tokenizer) -> _Made:
    if not definition.get("decoder"):  # encoding does not need it; readers of the files do
        level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        definition = {**definition, "decoder": {"type": "ByteLevel", **level}}
    model = definition["model"]
    spelled = {index: piece for piece, index in model["vocab"].items()}
    spelled |= {each["id"]: each["content"] for each in definition["added_tokens"]}
    end = spelled[tokenizer.eos]
    merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
    files = {}
    # The two old files hold a vocabulary and its merges, not a normaliser or other splitting.
    plain = definition.get("normalizer") is None and not any(" " in m for m in model["vocab"])
    if plain:
        vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
        files["vocab.json"] = json.dumps(vocab, ensure_ascii=False).encode()
        files["merges.txt"] = "\n".join(["#version: 0.2", *merges, ""]).encode()
    settings = {
        "tokenizer_class": "GPT2Tokenizer" if plain else "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "clean_up_tokenization_spaces": False,
    }
    return (
        definition,
        settings,
        files,
        {"bos_token_id": tokenizer.eos, "eos_token_id": tokenizer.eos},
    )


def _wordpiece(tokenizer: Tokenizer, model_type: str) -> _Made:
    definition = json.loads(tokenizer.payload()["tokenizer.json"])
    vocab = {each["content"]: each["id"] for each in definition["added_tokens"]}
    vocab |= definition["model"]["vocab"]
    pieces = {index: piece for piece, index in vocab.items()}
    spelled = {role: pieces[index] for role, index in tokenizer.special.items()}
    cls, sep = spelled["cls"], spelled["sep"]
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [_token(cls, 0), _sequence("A", 0), _token(sep, 0)],
        "pair": [
            *(_token(cls, 0), _sequence("A", 0), _token(sep, 0)),
            *(_sequence("B", 1), _token(sep, 1)),
        ],
        "special_tokens": {
            each: {"id": each, "ids": [vocab[each]], "tokens": [each]} for each in (cls, sep)
        },
    }
    normal = definition.get("normalizer") or {}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": bool(normal.get("lowercase", False)),
        "strip_accents": normal.get("strip_accents"),
        "tokenize_chinese_chars": bool(normal.get("handle_chinese_chars", False)),
        **{f"{role}_token": text for role, text in spelled.items()},
    }
    files = {}
    if sorted(pieces) == list(range(len(pieces))):
        lines = [pieces[index] for index in range(len(pieces))]
        files["vocab.txt"] = "\n".join([*lines, ""]).encode()
    ids = {f"{role}_token_id": index for role, index in tokenizer.special.items() if role == "pad"}
    return definition, settings, files, ids


def _sentencepiece(tokenizer: Tokenizer, model_type: str) -> _Made:
    content = tokenizer.payload()["sentencepiece.model"]
    end = tokenizer.eos if model_type == "t5" else None
    definition, special = definition_of(content, end=end)
    settings: dict[str, Any] = {
        # T5Tokenizer of transformers 5 makes its own normaliser, whatever the files say.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    ids = {"eos_token_id": tokenizer.eos}
    for role, (piece, index) in special.items():
        settings[f"{role}_token"] = piece
        if role in ("pad", "bos"):
            ids[f"{role}_token_id"] = index
    settings["eos_token"] = definition["model_pieces"][tokenizer.eos]
    del definition["model_pieces"]
    return definition, settings, {"spiece.model": content}, ids


def _compare(definition: Record, tokenizer: Tokenizer) -> None:
    """Raise FolderError where the written tokenizer.json gives other ids than the tokenizer."""
    from tokenizers import Tokenizer

    written = Tokenizer.from_str(json.dumps(definition))
    written.encode_special_tokens = True
    for text in PROBES:
        ours = tokenizer.encode(text).tolist()
        theirs = written.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            raise FolderError(
                f"the {tokenizer.kind} tokenizer cannot be written as tokenizer.json: of {text!r}"
                f" it makes {ours[:12]}, and `tokenizers` would make {theirs[:12]}"
            )


def _token(text: str, kind: int) -> Record:
    return {"SpecialToken": {"id": text, "type_id": kind}}


def _sequence(name: str, kind: int) -> Record:
    return {"Sequence": {"id": name, "type_id": kind}}


def _added_token(text: str, index: int) -> Record:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, **flags, "special": True}


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the others from 256 on."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + hidden.index(byte)) for byte in range(256)]


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
