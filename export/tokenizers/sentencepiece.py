"""A sentencepiece .model as a tokenizer.json: its pieces, scores and normalisation, read by hand.

The .model is a protocol buffer (sentencepiece_model.proto of
https://github.com/google/sentencepiece). The handful of fields that matter here are read without
protobuf: the wheel's own sentencepiece_model_pb2 refuses every protobuf older than the one that
generated it (0.2.3: 7.36.1), which would hold a whole environment to the newest.
"""

import base64
import struct
from collections.abc import Iterator
from typing import Any

from gesso.export.files.tensors import FolderError, Record

_UNIGRAM, _BPE = 1, 2
# A message by its field numbers.
Message = dict[int, Any]
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
SPACE = "\u2581"


def definition_of(
    model: bytes, *, end: int | None
) -> tuple[dict[str, Any], dict[str, tuple[str, int]]]:
    """(the tokenizer.json's content, {"unk"|"bos"|"pad": (piece, id)}).

    The content has a further key "model_pieces", the pieces by id, for the caller to take out.
    end: an id to put behind every text (T5's </s>), or None. Raises FolderError for a model that is
    neither unigram nor bpe.
    """
    pieces, trainer, normal = parse(model)
    kind = trainer.get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise FolderError("a sentencepiece model of words or characters has no tokenizer.json")
    names = [piece for piece, _, _ in pieces]
    unknown = next(i for i, (_, _, each) in enumerate(pieces) if each == _UNKNOWN)
    byte_fallback = any(each == _BYTE for _, _, each in pieces)
    special = {"unk": (names[unknown], unknown)}
    for role, spelled in (("bos", ("<s>",)), ("pad", ("<pad>",))):
        for text in spelled:
            if text in names and pieces[names.index(text)][2] == _CONTROL:
                special[role] = (text, names.index(text))
    whole: Record = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(name, i)
            for i, (name, _, each) in enumerate(pieces)
            if each in (_CONTROL, _UNKNOWN, _USER)
        ],
        "normalizer": _normalizer(normal),
        "pre_tokenizer": None,
        "post_processor": None if end is None else _ending(names[end], end),
        "decoder": _decoder(dummy=bool(normal.get(3, 1))),
        "model": _unigram(pieces, unknown, byte_fallback)
        if kind == _UNIGRAM
        else _bpe(pieces, names[unknown], byte_fallback),
        "model_pieces": names,
    }
    return whole, special


def _unigram(pieces: list[tuple[str, float, int]], unknown: int, fallback: bool) -> Record:
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[piece, score] for piece, score, _ in pieces],
        "byte_fallback": fallback,
    }


def _bpe(pieces: list[tuple[str, float, int]], unknown: str, fallback: bool) -> Record:
    """Sentencepiece merges any two neighbours whose union is a piece, the best score first."""
    scores = {piece: score for piece, score, kind in pieces if kind == _NORMAL}
    ids = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    merges = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": [[left, right] for _, _, _, left, right in sorted(merges)],
    }


def _normalizer(normal: Message) -> Record:
    steps: list[Record] = []
    if charsmap := normal.get(2):
        encoded = base64.b64encode(charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if normal.get(4, 1):  # remove_extra_whitespaces
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if normal.get(3, 1):  # add_dummy_prefix
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _decoder(*, dummy: bool) -> Record:
    steps: list[Record] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if dummy:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _ending(piece: str, index: int) -> Record:
    one = {"SpecialToken": {"id": piece, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, one],
        "pair": [first, one, second, one],
        "special_tokens": {piece: {"id": piece, "ids": [index], "tokens": [piece]}},
    }


def _added_token(text: str, index: int) -> Record:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, **flags, "special": True}


def parse(model: bytes) -> tuple[list[tuple[str, float, int]], Message, Message]:
    """(pieces as (text, score, type), trainer settings, normaliser settings) by field number."""
    pieces, trainer, normal = [], {}, {}
    try:
        for number, value in _fields(model):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                pieces.append((piece[1].decode(), score, piece.get(3, _NORMAL)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normal = dict(_fields(value))
    except (KeyError, IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise FolderError(f"not a whole sentencepiece model ({error!r})") from None
    return pieces, trainer, normal


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, int or bytes) of a protocol buffer message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        if at + size > len(message):
            raise IndexError("a field that is cut off")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
