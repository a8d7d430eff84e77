"""Byte-level BPE as GPT-2, GPT-Neo, GPT-J and GPT-NeoX use it.

Two engines give the same ids. tiktoken's is about five times as fast and takes over where it is
proven equal (`tiktoken_ranks` in merges.py) and agrees with `tokenizers` on a probe set; any
other file (a normaliser, added tokens that are text, other splitting) goes to `tokenizers`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

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
from gesso.data.tokenizers.cuts import (
    BEFORE_SPACE,
    BEFORE_WHITE_SPACE,
    CUT_ABOVE,
    cut,
    cut_long_runs,
    training_chunks,
)
from gesso.data.tokenizers.merges import Definition, read_definition, tiktoken_ranks
from gesso.data.tokenizers.special import continues_of, special_of

END_OF_TEXT = ("<|endoftext|>", "</s>")
# GPT-2's pre-tokenisation, with possessive repeats: the same matches without the backtracking.
GPT2_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s+"
# Documents reach `tokenizers` in chunks of about this many characters, where it is fastest, if its
# ids are proven to stay the same; otherwise only documents over CUT_ABOVE are cut.
CHUNK = 4096

PROBES = (
    "The quick brown fox's tail; it's, we'll, I'd, you've, they're, 'tis 'S 'LL o'clock don't",
    "def f(x):\n    return  x ** 2  # 3.14 0x1F 1_000\n\n\n\tif x:\r\n\t\tpass   \n",
    " leading, trailing  and   inner    spaces     ",
    "\n\n \n  \n\t \t\t a\n",
    "\u00a0no-break\u00a0\u00a0 \u2003em\u2028line\u2029paragraph\u3000ideographic\x85next\x1cfile",
    "caf\u00e9 cafe\u0301 \u00fcber na\u00efve \u0130stanbul \u1e9e \ufb01 \u01c5",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22",
    "\u0661\u0662\u0663 \u00bd \u2167 \u3007 \u00b2 \u0967\u0968",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d400\U0001d7d8 \U00010400",
    "\x00\x01\x7f\ufeff\ufffd\uffff\U0010ffff \u200b\u200d\u00ad",
    "https://example.org/a?b=c&d=%20#e <|endoftext|> </s> $x^{2}$ \\frac{1}{2} --- === ...",
)


class BPETokenizer(Tokenizer):
    """Byte-level BPE.

    definition: the content of a tokenizer.json.
    eos: the id that ends documents.
    engine: "tiktoken" or "tokenizers", decided by proof and probe; never changes an id.
    """

    kind = "bpe"

    def __init__(self, definition: Json, *, eos: int) -> None:
        # Truncation and padding would silently cut documents or fill them up.
        definition = {**definition, "truncation": None, "padding": None}
        self._definition = definition
        read = read_definition(definition)
        self.eos = eos
        self.vocab_size = read.vocab_size
        self.fingerprint = content_fingerprint(kind=self.kind, eos=eos, content=read.canonical)
        self._bytes = read.bytes_of_id()
        if not 0 <= eos < self.vocab_size:
            raise TokenizerError(f"eos {eos} is outside the vocabulary of {self.vocab_size} ids")
        self._bytes[eos] = b""
        self.byte_lengths = np.array([len(piece) for piece in self._bytes], np.int32)
        self.special = special_of(read.vocab | {each["content"]: each["id"] for each in read.added})
        self.continues = continues_of(self._bytes)
        slow = _TokenizersEngine(definition, read)
        fast = _TiktokenEngine.proven(read)
        agree = fast is not None and all(
            np.array_equal(fast.encode(probe), slow.encode(probe)) for probe in PROBES
        )
        self._engine = fast if fast is not None and agree else slow

    @property
    def engine(self) -> str:
        return self._engine.name

    def encode(self, text: str) -> np.ndarray:
        utf8(text)
        return self._engine.encode(text)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        for text in texts:
            utf8(text)
        return self._engine.encode_batch(texts)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        checked = check_ids(ids, vocab_size=self.vocab_size)
        return b"".join(self._bytes[i] for i in checked.tolist()).decode("utf-8", "replace")

    def payload(self) -> dict[str, bytes]:
        return {BPE_FILE: json.dumps(self._definition, ensure_ascii=False).encode()}


class _TiktokenEngine:
    name = "tiktoken"

    def __init__(self, ranks: dict[bytes, int]) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding(
            name="gesso", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def proven(cls, read: Definition) -> "_TiktokenEngine | None":
        ranks = tiktoken_ranks(read)
        return cls(ranks) if ranks else None

    def encode(self, text: str) -> np.ndarray:
        try:
            return self._encoding.encode_to_numpy(text).astype(np.uint32, copy=False)
        except ValueError:  # the regular expression's stack: a huge run of white space
            parts = [self._encoding.encode_to_numpy(part) for part in cut_long_runs(text)]
            return np.concatenate(parts).astype(np.uint32, copy=False)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]


class _TokenizersEngine:
    name = "tokenizers"

    def __init__(self, definition: Json, read: Definition) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
        except Exception as error:  # tokenizers raises bare Exception for a bad definition
            raise TokenizerError(f"`tokenizers` cannot read the definition: {error}") from None
        # A document that spells out <|endoftext|> must not end there.
        self._tokenizer.encode_special_tokens = True
        self._at = BEFORE_WHITE_SPACE if read.gpt2_splitting else BEFORE_SPACE
        self._chunk = CHUNK if read.cuttable else CUT_ABOVE

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        chunks, counts = [], []
        for text in texts:
            parts = cut(text, characters=self._chunk, at=self._at)
            chunks += parts
            counts.append(len(parts))
        encoded = self._tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
        ids = [np.array(one.ids, np.uint32) for one in encoded]
        ends = np.cumsum([0, *counts])
        return [
            ids[a] if b == a + 1 else np.concatenate(ids[a:b])
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]


def load_files(path: Path, *, eos: str) -> BPETokenizer:
    """Load a tokenizer.json, or a vocab.json with the merges.txt beside it (see load_tokenizer)."""
    content = parse_json(path)
    definition = content if isinstance(content.get("model"), dict) else _from_parts(path, content)
    read = read_definition(definition, source=str(path))
    return BPETokenizer(definition, eos=_find_eos(read, path, asked=eos))


def parse_json(path: Path) -> Json:
    """A JSON file's object; TokenizerError says when it is cut off or something else."""
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(
            f"{path}: not valid JSON ({error}); the file is damaged or cut off, copy it again"
        ) from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: holds a {type(content).__name__}, not a JSON object")
    return content


def train(texts: Iterator[str], *, vocab_size: int, limit_bytes: int | None = None) -> BPETokenizer:
    """Train byte-level BPE on texts: 256 bytes, then the merges in order, then `<|endoftext|>`.

    limit_bytes: stop reading after so much text. The order of ids makes the fast engine apply.
    Raises TokenizerError when the texts give fewer merges than asked for.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < 258:
        raise TokenizerError(f"vocab_size {vocab_size}: 256 bytes, a merge and the end need 258")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(
        training_chunks(texts, bytes_each=1 << 18, limit_bytes=limit_bytes), trainer
    )
    found = trained.get_vocab_size()
    if found != vocab_size - 1:
        raise TokenizerError(
            f"the texts give {found + 1} ids, {vocab_size} were asked for; "
            "train on more text or ask for a smaller vocabulary"
        )
    definition = json.loads(trained.to_str())
    _add_special(definition, END_OF_TEXT[0], vocab_size - 1)
    return BPETokenizer(definition, eos=vocab_size - 1)


def _from_parts(path: Path, vocab: Json) -> Json:
    merges_path = path.with_name("merges.txt")
    if not merges_path.exists():
        raise TokenizerError(
            f"{path}: a vocabulary without merges; put merges.txt beside it or give tokenizer.json"
        )
    try:
        lines = read_file(merges_path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{merges_path}: not UTF-8 ({error.reason})") from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise TokenizerError(
                f"{merges_path}:{number}: expected two symbols and a space, found {line[:40]!r}; "
                "the file is cut off or is not a merges file"
            )
        merges.append(pair)
    definition: Json = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    for token in END_OF_TEXT:
        if token in vocab:
            _add_special(definition, token, vocab[token])
    return definition


def _add_special(definition: Json, token: str, index: int) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    definition["added_tokens"].append({"id": index, "content": token, **flags, "special": True})
    definition["model"]["vocab"].setdefault(token, index)


def _find_eos(read: Definition, path: Path, *, asked: str) -> int:
    ids = {**read.vocab, **{token["content"]: token["id"] for token in read.added}}
    named = asked or _eos_name(path)
    if named:
        if named in ids:
            return ids[named]
        raise TokenizerError(
            f"{path}: the end-of-document token {named!r} is not in its vocabulary"
        )
    for token in END_OF_TEXT:
        if token in ids:
            return ids[token]
    special = [token["content"] for token in read.added][:8]
    raise TokenizerError(
        f"{path}: no token ends a document; looked for {' and '.join(END_OF_TEXT)}; name one with "
        f"eos=... (its added tokens: {', '.join(special) or 'none'})"
    )


def _eos_name(path: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        beside = path.with_name(name)
        if beside.is_file():
            token = parse_json(beside).get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                return token
    return ""
