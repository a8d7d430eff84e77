"""A tokenizer's published files as the keys of a GGUF file, in llama.cpp's own spelling.

llama.cpp names splittings rather than describing them, so what it has no name for is refused: a
file whose prompts would be cut otherwise than the model was trained on is worse than none.
"""

import json
from collections.abc import Mapping
from typing import Any

from gesso.export.files.tensors import FolderError, Record
from gesso.export.tokenizers.sentencepiece import parse

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED = 1, 2, 3, 4, 5
_SPACE = "\u2581"
_UNIGRAM = 1


def add_tokenizer(
    writer: Any, files: Mapping[str, bytes], *, ids: Mapping[str, int], vocab: int
) -> None:
    """Add the keys to a gguf.GGUFWriter.

    files: tokenizer.json or a sentencepiece model, and tokenizer_config.json; empty: the file reads
    ids only. ids: special ids known otherwise ("eos_token_id"). vocab: the model's rows, which may
    be more than there are tokens. Raises FolderError for a tokenizer that llama.cpp does not have.
    """
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    sentencepiece = files.get("spiece.model") or files.get("tokenizer.model")
    if not files:
        writer.add_tokenizer_model("no_vocab")
    elif sentencepiece:
        _sentencepiece(writer, sentencepiece, settings, ids, vocab)
    elif "tokenizer.json" in files:
        definition = json.loads(files["tokenizer.json"])
        kind = definition["model"].get("type", "BPE")
        if kind not in ("BPE", "WordPiece"):
            raise FolderError(f"a tokenizer.json of {kind} cannot be written into a GGUF file")
        (_bpe if kind == "BPE" else _wordpiece)(writer, definition, settings, vocab)
    else:
        raise FolderError(
            f"no tokenizer.json and no sentencepiece model among {', '.join(files)}; import the"
            " tokenizer first (gesso tokenizer import)"
        )


def _bpe(writer: Any, definition: Record, settings: Record, vocab: int) -> None:
    splitting = definition.get("pre_tokenizer") or {}
    plain = (
        splitting.get("type") == "ByteLevel"
        and splitting.get("use_regex", True)
        and not splitting.get("add_prefix_space", True)
        and definition.get("normalizer") is None
    )
    if not plain:
        raise FolderError(
            "llama.cpp cuts byte-level BPE as GPT-2 does, without normalising; this tokenizer has"
            f" normalizer {definition.get('normalizer')} and pre_tokenizer {splitting}"
        )
    pieces = dict(definition["model"]["vocab"])
    types = dict.fromkeys(pieces.values(), _NORMAL)
    for each in definition.get("added_tokens") or []:
        pieces[each["content"]] = each["id"]
        types[each["id"]] = _CONTROL if each.get("special") else _USER
    merges = [
        " ".join(each) if isinstance(each, list) else each
        for each in definition["model"].get("merges", [])
    ]
    # GGUF has no empty list; no text holds the two ends that this one would join.
    end = settings.get("eos_token") or next(iter(pieces))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    _tokens(writer, {index: piece for piece, index in pieces.items()}, types, vocab)
    writer.add_token_merges(merges or [f"{end} {end}"])
    if end in pieces:
        writer.add_bos_token_id(pieces[end])
        writer.add_eos_token_id(pieces[end])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _wordpiece(writer: Any, definition: Record, settings: Record, vocab: int) -> None:
    normal = definition.get("normalizer") or {}
    prefix = definition["model"].get("continuing_subword_prefix", "##")
    kinds = [normal.get("type"), (definition.get("pre_tokenizer") or {}).get("type")]
    if kinds != ["BertNormalizer", "BertPreTokenizer"] or prefix != "##":
        raise FolderError("llama.cpp cuts WordPiece as BERT does; this tokenizer does it otherwise")
    ids = dict(definition["model"]["vocab"])
    special = {each["content"]: each["id"] for each in definition.get("added_tokens") or []}
    ids |= special
    # Theirs marks what begins a word; ours what goes on with one.
    pieces = {
        index: piece
        if piece in special
        else piece.removeprefix(prefix)
        if piece.startswith(prefix)
        else _SPACE + piece
        for piece, index in ids.items()
    }
    types = {index: _CONTROL if piece in special else _NORMAL for piece, index in ids.items()}
    lowercase = bool(normal.get("lowercase", True))
    accents = normal.get("strip_accents")
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool(
        "tokenizer.ggml.normalizer.strip_accents", lowercase if accents is None else bool(accents)
    )
    _tokens(writer, pieces, types, vocab)
    named = {
        role: ids[settings[f"{role}_token"]]
        for role in ("cls", "sep", "pad", "unk", "mask")
        if settings.get(f"{role}_token") in ids
    }
    if "cls" in named:
        writer.add_bos_token_id(named["cls"])
        writer.add_uint32("tokenizer.ggml.cls_token_id", named["cls"])
    if "sep" in named:
        writer.add_eos_token_id(named["sep"])
    for role, add in (
        ("sep", writer.add_sep_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
        ("mask", writer.add_mask_token_id),
    ):
        if role in named:
            add(named[role])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _sentencepiece(
    writer: Any, model: bytes, settings: Record, ids: Mapping[str, int], vocab: int
) -> None:
    found, trainer, normal = parse(model)
    unigram = trainer.get(3, _UNIGRAM) == _UNIGRAM
    # Normalisation is a table inside the model, which "t5" takes and "llama" has none of.
    charsmap = normal.get(2, b"")
    if charsmap and not unigram:
        raise FolderError(
            "llama.cpp does not normalise for sentencepiece's bpe, and this model does"
            f" ({normal.get(1, b'').decode()!r}); train one with identity normalisation"
        )
    writer.add_tokenizer_model("t5" if unigram else "llama")
    writer.add_tokenizer_pre("default")
    pieces = {index: piece for index, (piece, _, _) in enumerate(found)}
    types = {index: kind for index, (_, _, kind) in enumerate(found)}
    scores = [score for _, score, _ in found]
    _tokens(writer, pieces, types, vocab)
    writer.add_token_scores(scores + [-1000.0] * (vocab - len(scores)))
    names = {piece: index for index, piece in pieces.items()}
    eos = ids.get("eos_token_id", names.get(settings.get("eos_token", ""), -1))
    if eos >= 0:
        writer.add_eos_token_id(eos)
    writer.add_bos_token_id(names.get(settings.get("bos_token", ""), max(eos, 0)))
    writer.add_unk_token_id(next(i for i, kind in types.items() if kind == _UNKNOWN))
    if (pad := names.get(settings.get("pad_token", ""))) is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_space_prefix(bool(normal.get(3, 1)))
    writer.add_remove_extra_whitespaces(bool(normal.get(4, 1)))
    if charsmap:
        writer.add_precompiled_charsmap(charsmap)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _tokens(writer: Any, pieces: Mapping[int, str], types: Mapping[int, int], vocab: int) -> None:
    """One token for every row of the model's table; those without one are named and unused."""
    if max(pieces) >= vocab:
        raise FolderError(f"the tokenizer has an id {max(pieces)}, and the model {vocab} rows")
    tokens = [pieces.get(index, f"[unused row {index}]") for index in range(vocab)]
    if len(set(tokens)) < len(tokens):
        twice = next(each for each in tokens if tokens.count(each) > 1)
        raise FolderError(f"two ids would both be spelled {twice!r} in a GGUF file")
    writer.add_token_list(tokens)
    writer.add_token_types([types.get(index, _UNUSED) for index in range(vocab)])
