"""Sentencepiece: training with settings that round-trip exactly, and loading of any model file.

A document over 1 MiB (of characters) is cut before spaces and its parts are encoded one by one.
Trained here, a model's pieces never hold a space after another character, so bpe ids do not change;
unigram's may, for the better: sentencepiece adds up a whole text's scores in float32.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gesso.data.tokenizers.base import (
    SENTENCEPIECE_FILE,
    Json,
    Tokenizer,
    TokenizerError,
    check_ids,
    content_fingerprint,
    read_file,
    utf8,
)
from gesso.data.tokenizers.cuts import CUT_ABOVE, cut, training_chunks
from gesso.data.tokenizers.special import continues_of, special_of

END_OF_TEXT = ("<|endoftext|>", "</s>")
# Sentencepiece writes a space as this character, so the character itself would come back a space.
ESCAPED_SPACE = "\u2581"

# T5's order of the special ids. Nothing is normalised away and every byte has a piece, so every
# text round-trips; runs of spaces (code) become pieces of their own.
EXACT: Json = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "pad_id": 0,
    "eos_id": 1,
    "unk_id": 2,
    "bos_id": -1,
    "pad_piece": "<pad>",
    "eos_piece": "</s>",
    "unk_piece": "<unk>",
}
# The trainer silently drops longer "sentences" (4192 is its default); we hand it shorter chunks.
SENTENCE_BYTES = 4096
# Sums of floats depend on how many threads share them, so the number is fixed, not the machine's.
THREADS = 4


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model.

    model: the content of a `.model` file. eos: the id that ends documents.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, *, eos: int, source: str = SENTENCEPIECE_FILE) -> None:
        self._model = model
        self._processor = _processor(model, source)
        self.vocab_size = self._processor.vocab_size()
        if not 0 <= eos < self.vocab_size:
            raise TokenizerError(f"eos {eos} is outside the vocabulary of {self.vocab_size} ids")
        self.eos = eos
        self.fingerprint = content_fingerprint(kind=self.kind, eos=eos, content=model)
        self.byte_lengths = _byte_lengths(self._processor, eos=eos)
        pieces = [self._processor.id_to_piece(index) for index in range(self.vocab_size)]
        self.special = special_of({piece: index for index, piece in enumerate(pieces)})
        # A byte piece is a part of a character that has no piece.
        self.continues = continues_of(
            [
                b"\xff" if self._processor.is_byte(i) else each.replace(ESCAPED_SPACE, " ").encode()
                for i, each in enumerate(pieces)
            ]
        )
        escaped = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in utf8(ESCAPED_SPACE)]
        has_bytes = all(self._processor.is_byte(index) for index in escaped)
        self._escaped_space = escaped if has_bytes else None

    def encode(self, text: str) -> np.ndarray:
        utf8(text)
        ids: list[int] = []
        for part in cut(text, characters=CUT_ABOVE):
            ids += self._encode_part(part)
        return np.array(ids, np.uint32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        checked = check_ids(ids, vocab_size=self.vocab_size)
        return self._processor.decode(checked[checked != self.eos].tolist())

    def payload(self) -> dict[str, bytes]:
        return {SENTENCEPIECE_FILE: self._model}

    def _encode_part(self, text: str) -> list[int]:
        if self._escaped_space is None or ESCAPED_SPACE not in text:
            return self._processor.encode(text)
        first, *rest = text.split(ESCAPED_SPACE)
        ids = self._processor.encode(first)
        for part in rest:
            ids += self._escaped_space + self._processor.encode(part)
        return ids


def load_model(path: Path, *, eos: str) -> SentencePieceTokenizer:
    """Load a `.model` file (see load_tokenizer)."""
    model = read_file(path)
    processor = _processor(model, str(path))
    return SentencePieceTokenizer(
        model, eos=_find_eos(processor, path, asked=eos), source=str(path)
    )


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    kind: Literal["unigram", "bpe"] = "bpe",
    limit_bytes: int | None = None,
) -> SentencePieceTokenizer:
    """Train a model; the same texts give the same bytes.

    limit_bytes: stop reading after so much text. Unigram trains about 18 times as long as bpe
    and encodes about 4 times as fast.
    Raises TokenizerError when the texts cannot give a vocabulary of that size.
    """
    import sentencepiece

    least = 3 + 256
    if vocab_size <= least:
        raise TokenizerError(
            f"vocab_size {vocab_size}: {least} ids are special or bytes; ask for more than that"
        )
    chunks = training_chunks(texts, bytes_each=SENTENCE_BYTES, limit_bytes=limit_bytes)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chunks,
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            num_threads=THREADS,
            minloglevel=2,
            **EXACT,
        )
    except RuntimeError as error:
        raise TokenizerError(_cannot_train(str(error), kind, vocab_size)) from None
    return SentencePieceTokenizer(model.getvalue(), eos=EXACT["eos_id"])


def _cannot_train(error: str, kind: str, vocab_size: int) -> str:
    asked = f"sentencepiece {kind} with {vocab_size} ids: the texts"
    if most := re.search(r"value <= (\d+)", error):
        return f"{asked} give at most {most[1]}; train on more text or ask for fewer ids"
    if least := re.search(r"\d+ vs (\d+)", error):
        return f"{asked} have characters that need at least {least[1]}; ask for more ids"
    return f"{asked} give no model: {error}"


def _processor(model: bytes, source: str) -> Any:
    import sentencepiece

    # Cut off between two pieces, a model still parses, and loses its settings without a word.
    if not {1, 2, 3} <= _message_fields(model):
        raise TokenizerError(
            f"{source}: not a whole sentencepiece model (pieces, trainer and normaliser settings "
            "are expected); it is cut off or another kind of file, copy it again"
        )
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise TokenizerError(f"{source}: sentencepiece cannot read it: {error}") from None


def _message_fields(message: bytes) -> set[int]:
    """Field numbers at the top level of a protocol buffer; empty where it does not parse.

    All the fields of sentencepiece's ModelProto are length-delimited (wire type 2).
    """
    fields, at = set(), 0
    while at < len(message):
        key, at = _varint(message, at)
        size, at = _varint(message, at)
        at += size
        if key & 7 != 2 or at > len(message):
            return set()
        fields.add(key >> 3)
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return 0, len(message) + 1


def _byte_lengths(processor: Any, *, eos: int) -> np.ndarray:
    lengths = np.zeros(processor.vocab_size(), np.int32)
    for index in range(processor.vocab_size()):
        if processor.is_byte(index):
            lengths[index] = 1
        elif not (processor.is_control(index) or processor.is_unknown(index)):
            piece = processor.id_to_piece(index).replace(ESCAPED_SPACE, " ")
            lengths[index] = len(piece.encode())
    lengths[eos] = 0
    return lengths


def _find_eos(processor: Any, path: Path, *, asked: str) -> int:
    unknown = processor.unk_id()
    if asked:
        index = processor.piece_to_id(asked)
        if index != unknown:
            return index
        raise TokenizerError(
            f"{path}: the end-of-document token {asked!r} is not in its vocabulary"
        )
    if processor.eos_id() >= 0:
        return processor.eos_id()
    for token in END_OF_TEXT:
        if processor.piece_to_id(token) != unknown:
            return processor.piece_to_id(token)
    raise TokenizerError(
        f"{path}: no token ends a document; looked for the model's own eos, "
        f"{' and '.join(END_OF_TEXT)}; name one with eos=..."
    )
