"""Texts and small trained tokenizers that the tokenizer tests share."""

import inspect
import json
import textwrap
from functools import cache
from pathlib import Path

from hypothesis import strategies

from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.bpe import BPETokenizer
from gesso.data.tokenizers.bpe import train as train_bpe
from gesso.data.tokenizers.load import load_tokenizer
from gesso.data.tokenizers.sentencepiece import train as train_sentencepiece

# What breaks tokenizers: every class GPT-2's expression tells apart, escapes, specials, controls.
PIECES = (
    " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\x85", "\x1c", "\x00", "\u2581",
    "\u2581\u2581", "'s", "'LL", "don't", "the", "The", " and", "x1", "12", "\u0663", "\u00bd",
    "e\u0301", "\u00e9", "\u65e5\u672c", "\U0001f600", "\u200d", "...", "<|endoftext|>", "</s>",
    "<unk>", "<0x41>", "<pad>", "_", "\ufffd", "\U0010ffff",
)  # fmt: skip
TEXTS = strategies.one_of(
    strategies.text(max_size=60),
    strategies.lists(strategies.sampled_from(PIECES), max_size=30).map("".join),
)


def training_texts() -> list[str]:
    """About 400 kB of English and code, the same on every machine with this Python version."""
    return [inspect.getsource(module) for module in (textwrap, json, inspect)] * 3


@cache
def bpe() -> BPETokenizer:
    return train_bpe(iter(training_texts()), vocab_size=700)


@cache
def sentencepiece_bpe():
    return train_sentencepiece(iter(training_texts()), vocab_size=700, kind="bpe")


@cache
def sentencepiece_unigram():
    return train_sentencepiece(iter(training_texts()), vocab_size=700, kind="unigram")


def tokenizers() -> dict[str, Tokenizer]:
    return {
        "bytes": load_tokenizer("bytes"),
        "bpe": bpe(),
        "sentencepiece_bpe": sentencepiece_bpe(),
        "sentencepiece_unigram": sentencepiece_unigram(),
    }


def definition() -> dict:
    """The tokenizer.json of `bpe()`, as a fresh object to change."""
    return json.loads(bpe().payload()["tokenizer.json"])


def write_parts(folder: Path, *, eos: str = "<|endoftext|>") -> Path:
    """`bpe()` as GPT-2 is published: vocab.json and merges.txt."""
    model = definition()["model"]
    vocab = {token: index for token, index in model["vocab"].items() if token != "<|endoftext|>"}
    if eos:
        vocab[eos] = bpe().eos
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return folder
