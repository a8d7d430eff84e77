"""WordPiece as BERT uses it: words by white space and punctuation, then the longest known pieces.

Text is not given back exactly: white space, control characters and, for an uncased vocabulary, case
and accents are normalised away, and a word without known pieces or over 100 characters is [UNK], as
published (https://arxiv.org/abs/1810.04805; its tokenization.py).
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gesso.data.tokenizers.base import (
    BPE_FILE,
    Json,
    Tokenizer,
    TokenizerError,
    check_ids,
    content_fingerprint,
    read_file,
    utf8,
)
from gesso.data.tokenizers.bpe import parse_json
from gesso.data.tokenizers.cuts import (
    BEFORE_SPACE,
    BEFORE_WHITE_SPACE,
    CUT_ABOVE,
    cut,
    training_chunks,
)
from gesso.data.tokenizers.special import SPELLINGS, special_of

DEFINITION_FILE = BPE_FILE  # both are tokenizer.json
SPECIAL = tuple(spellings[0] for spellings in SPELLINGS.values())
CONTINUED = "##"
LONGEST_WORD = 100  # characters; the published limit
# Documents reach `tokenizers` in chunks of about this many characters, where it is fastest.
CHUNK = 4096


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary.

    definition: the content of a tokenizer.json. eos: the id that ends documents; -1: [SEP].
    special: {"pad", "unk", "cls", "sep", "mask": id}. continues: bool[vocab_size], the "##" pieces.
    byte_lengths count what a piece spells after normalisation, without white space, and nothing for
    [UNK]: bits per byte are per byte of that text, fewer bytes than the documents have.
    Raises TokenizerError for a vocabulary without [UNK], [CLS], [SEP] or [MASK].
    """

    kind = "wordpiece"

    def __init__(self, definition: Json, *, eos: int = -1, source: str = DEFINITION_FILE) -> None:
        definition = {**definition, "truncation": None, "padding": None, "post_processor": None}
        self._definition = definition
        ids = _ids(definition, source)
        self.special = special_of(ids)
        if lost := [f"[{role.upper()}]" for role in ("unk", "cls", "sep", "mask")
                    if role not in self.special]:  # fmt: skip
            raise TokenizerError(
                f"{source}: the vocabulary has no {', '.join(lost)}; it is cut off, or not BERT's:"
                " train one (gesso tokenizer train --kind wordpiece)"
            )
        self.eos = self.special["sep"] if eos < 0 else eos
        self.vocab_size = max(ids.values()) + 1
        if not self.eos < self.vocab_size:
            raise TokenizerError(f"eos {eos} is outside the vocabulary of {self.vocab_size} ids")
        self._pieces = [""] * self.vocab_size
        for piece, index in ids.items():
            self._pieces[index] = piece
        self.continues = np.array([each.startswith(CONTINUED) for each in self._pieces])
        self.byte_lengths = np.array(
            [len(each.removeprefix(CONTINUED).encode()) for each in self._pieces], np.int32
        )
        self.byte_lengths[[*self.special.values(), self.eos]] = 0
        canonical = _canonical(definition)
        self.fingerprint = content_fingerprint(kind=self.kind, eos=self.eos, content=canonical)
        self._tokenizer = _engine(definition, source)
        plain = _is_plain(definition)
        self._at = BEFORE_WHITE_SPACE if plain else BEFORE_SPACE
        self._chunk = CHUNK if plain else CUT_ABOVE

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        chunks, counts = [], [0]
        for text in texts:
            utf8(text)
            parts = cut(text, characters=self._chunk, at=self._at)
            chunks += parts
            counts.append(len(parts))
        encoded = self._tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
        ids = [np.array(one.ids, np.uint32) for one in encoded]
        ends = np.cumsum(counts)
        return [np.concatenate(ids[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        skipped = {*self.special.values(), self.eos} - {self.special["unk"]}
        text = ""
        for index in check_ids(ids, vocab_size=self.vocab_size).tolist():
            if index in skipped:
                continue
            piece = self._pieces[index]
            text += piece.removeprefix(CONTINUED) if self.continues[index] else f" {piece}"
        return text.removeprefix(" ")

    def payload(self) -> dict[str, bytes]:
        return {DEFINITION_FILE: json.dumps(self._definition, ensure_ascii=False).encode()}


def load_vocabulary(path: Path, *, eos: str = "") -> WordPieceTokenizer:
    """Load a vocab.txt, a piece per line (see load_tokenizer).

    Whether text is lowercased, accents stripped and Chinese characters set apart is what a
    tokenizer_config.json beside it says; without one, a vocabulary in which no ordinary piece has a
    capital letter is uncased, and Chinese characters are set apart.
    """
    try:
        lines = read_file(path).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 ({error.reason})") from None
    pieces = [line.removesuffix("\r") for line in lines]
    if twice := [piece for piece, n in Counter(pieces).items() if n > 1]:
        raise TokenizerError(f"{path}: the piece {twice[0]!r} is there twice; no vocabulary")
    beside = path.with_name("tokenizer_config.json")
    settings = parse_json(beside) if beside.is_file() else {}
    words = [piece for piece in pieces if not piece.startswith("[")]
    cased = any(piece != piece.lower() for piece in words)
    lowercase = settings.get("do_lower_case", not cased)
    definition = _definition(
        {piece: index for index, piece in enumerate(pieces)},
        lowercase=lowercase,
        accents=settings.get("strip_accents"),
        chinese=settings.get("tokenize_chinese_chars", True),
    )
    return load_definition(definition, path, eos=eos)


def load_definition(definition: Json, path: Path, *, eos: str = "") -> WordPieceTokenizer:
    """The tokenizer of a tokenizer.json's content."""
    ids = _ids(definition, str(path))
    if eos and eos not in ids:
        raise TokenizerError(f"{path}: the end-of-document token {eos!r} is not in its vocabulary")
    return WordPieceTokenizer(definition, eos=ids[eos] if eos else -1, source=str(path))


def train(
    texts: Iterable[str], *, vocab_size: int, lowercase: bool = True, limit_bytes: int | None = None
) -> WordPieceTokenizer:
    """Train a vocabulary: the special tokens, characters, then pieces; the same texts give the same
    ids. lowercase: also strips accents ("uncased").

    The most frequent vocab_size // 8 characters (at most 1000) are kept; words with others are
    [UNK]. Raises TokenizerError when the texts give fewer pieces than asked for.
    """
    from tokenizers import Tokenizer, trainers

    if vocab_size < 64:
        raise TokenizerError(f"vocab_size {vocab_size}: WordPiece needs at least 64 ids")
    blank = _definition({piece: i for i, piece in enumerate(SPECIAL)}, lowercase=lowercase)
    trained = Tokenizer.from_str(json.dumps(blank))
    with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
        chunks = training_chunks(texts, bytes_each=1 << 18, limit_bytes=limit_bytes)
        characters = _characters(chunks, trained.normalizer, kept)
        alphabet = sorted(characters[: min(1000, vocab_size // 8)])
        # The trainer numbers continued characters in the order of a hash table that differs from
        # run to run, and breaks ties by number: given as special tokens, they have an order.
        split = trained.pre_tokenizer.pre_tokenize_str
        inner = [f"{CONTINUED}{each}" for each in alphabet if len(split(f"a{each}a")) == 1]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=[*SPECIAL, *alphabet, *inner],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=CONTINUED,
            show_progress=False,
        )
        kept.seek(0)
        trained.train_from_iterator((json.loads(line) for line in kept), trainer)
    vocab = trained.get_vocab()
    if len(vocab) != vocab_size:
        raise TokenizerError(
            f"the texts give {len(vocab)} ids, {vocab_size} were asked for; "
            "train on more text or ask for a smaller vocabulary"
        )
    return WordPieceTokenizer(_definition(vocab, lowercase=lowercase))


def _characters(chunks: Iterator[str], normalizer: Any, kept: IO[str]) -> list[str]:
    """The characters of the texts, most frequent first; the texts are written to `kept`."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        kept.write(json.dumps(chunk) + "\n")
        counts.update(normalizer.normalize_str(chunk))
    ordered = sorted(counts, key=lambda each: (-counts[each], each))
    return [each for each in ordered if not each.isspace()]


def _definition(
    vocab: dict[str, int],
    *,
    lowercase: bool,
    accents: bool | None = None,
    chinese: bool = True,
) -> Json:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": chinese,
            "strip_accents": lowercase if accents is None else accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": CONTINUED, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": SPELLINGS["unk"][0],
            "continuing_subword_prefix": CONTINUED,
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
        },
    }


def _ids(definition: Json, source: str) -> dict[str, int]:
    model = definition.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not all(type(index) is int for index in vocab.values()):
        raise TokenizerError(f"{source}: the vocabulary is not a map from pieces to ids")
    ids = dict(vocab)
    for token in definition.get("added_tokens") or []:
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            raise TokenizerError(f"{source}: the token {token['content']!r} has two ids")
    if len(set(ids.values())) != len(ids) or min(ids.values(), default=0) < 0:
        raise TokenizerError(f"{source}: two pieces share an id, or an id is negative")
    return ids


def _engine(definition: Json, source: str) -> Any:
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception as error:  # tokenizers raises bare Exception for a bad definition
        raise TokenizerError(f"{source}: `tokenizers` cannot read it: {error}") from None
    # A document that spells out [SEP] must not end there.
    made.encode_special_tokens = True
    return made


def _is_plain(definition: Json) -> bool:
    """BERT's own splitting and no added text: cuts before white space then change no id."""
    kinds = [(definition.get(x) or {}).get("type") for x in ("normalizer", "pre_tokenizer")]
    return kinds == ["BertNormalizer", "BertPreTokenizer"] and not _text_tokens(definition)


def _text_tokens(definition: Json) -> list[Any]:
    return [each for each in definition.get("added_tokens") or [] if not each.get("special")]


def _canonical(definition: Json) -> bytes:
    """What decides ids, and nothing else, in one spelling."""
    normalizer = definition.get("normalizer")
    if normalizer and normalizer.get("type") == "BertNormalizer":
        # Left open, accents are stripped where text is lowercased.
        accents = normalizer.get("strip_accents")
        lowercase = normalizer.get("lowercase", True)
        normalizer = {**normalizer, "strip_accents": lowercase if accents is None else accents}
    content = {
        "ids": _ids(definition, DEFINITION_FILE),
        "text_tokens": _text_tokens(definition),
        "normalizer": normalizer,
        "pre_tokenizer": definition.get("pre_tokenizer"),
        "model": {k: v for k, v in definition["model"].items() if k not in ("type", "vocab")},
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=True).encode()
