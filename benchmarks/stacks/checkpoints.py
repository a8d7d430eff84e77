"""A small checkpoint of every family, with random weights and a tokenizer of its own."""

import functools
import inspect
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.export.tables.tables import slots
from gesso.models import (
    BERTConfig,
    ELMoConfig,
    EncoderDecoderConfig,
    GPTConfig,
    Seq2SeqConfig,
    build,
)
from gesso.models.trees import nest

SHAPE = {"vocab": 512, "positions": 64, "layers": 2, "embed": 64, "heads": 4, "mlp": 256}
BERT = {**SHAPE, "mlp": 128}
ROTARY = {"position_encoding": "rotary", "head": "untied"}
T5 = Seq2SeqConfig(
    vocab=512,
    embed=64,
    heads=4,
    head_dim=16,
    mlp=128,
    position_encoding="relative",
    relative_buckets=32,
    relative_distance=128,
    embedding_scale="none",
    head_scale="rsqrt_embed",
    norm_kind="rms",
    attention_scale="none",
)
# name -> (config, kind of tokenizer)
CONFIGS: Mapping[str, tuple[Any, str]] = {
    "gpt1": (GPTConfig(**SHAPE, norm="post", padding="later"), "bpe"),
    "gpt2": (GPTConfig(**SHAPE, residual_init="depth"), "bpe"),
    # No row beyond the tokenizer's ids: other stacks write those too, and random ones are likely.
    "gpt2 of bytes": (
        GPTConfig(**{**SHAPE, "vocab": 257}, attention_scale="head_dim_and_layer"),
        "bytes",
    ),
    "gpt_neo": (
        GPTConfig(
            **SHAPE,
            pattern=("global", "local"),
            window=16,
            attention_scale="none",
            biases=("attention_out", "mlp"),
            padding="reach",
        ),
        "bpe",
    ),
    "gpt_neo, no local layer": (
        GPTConfig(
            **SHAPE, attention_scale="none", biases=("attention_out", "mlp"), padding="reach"
        ),
        "bpe",
    ),
    "gpt_j": (
        GPTConfig(
            **SHAPE,
            **ROTARY,
            rotary_dims=8,
            block="parallel_shared_norm",
            biases=("mlp", "head"),
        ),
        "bpe",
    ),
    "gpt_neox": (
        GPTConfig(
            **SHAPE, **ROTARY, rotation="half", rotary_dims=4, block="parallel", activation="gelu"
        ),
        "bpe",
    ),
    "bert": (BERTConfig(**BERT, outputs=("mlm", "nsp")), "wordpiece"),
    "bert, masked": (BERTConfig(**BERT, outputs=("mlm",)), "wordpiece"),
    "bert, classifying": (BERTConfig(**BERT, outputs=("classify",), labels=3), "wordpiece"),
    "roberta": (
        BERTConfig(
            **BERT,
            first_position=2,
            token_types=1,
            init="normal",
            epsilon=1e-5,
            outputs=("mlm",),
        ),
        "bpe",
    ),
    "t5": (T5, "sentencepiece"),
    "bert2bert": (
        EncoderDecoderConfig(encoder=BERTConfig(**BERT, outputs=()), decoder=BERTConfig(**BERT)),
        "wordpiece",
    ),
    "elmo": (
        ELMoConfig(vocab=400, embed=32, cell=64, filters=((1, 8), (2, 8), (3, 16))),
        "words",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model to export. texts: what its tokenizer is compared on."""

    name: str
    config: Any
    params: dict[str, Any]
    tokenizer: Any


def checkpoint(name: str, *, seed: int = 0) -> Checkpoint:
    """The checkpoint of this name in CONFIGS: weights of deviation 0.15, scales about 1."""
    config, kind = CONFIGS[name]
    random, flat = np.random.default_rng(seed), {}
    for path, slot in slots(build(config)).items():
        x = random.normal(0, 0.15, slot.shape).astype(np.float32)
        flat[path] = x + 1 if path.endswith("scale") else x
    return Checkpoint(name=name, config=config, params=nest(flat), tokenizer=tokenizer(kind))


TEXTS = (
    "The quick brown fox's tail; it's, we'll o'clock. 3.14159 x2",
    "def f(x):\n    return x ** 2\n",
    "two  spaces, a tab\tand caf\u00e9",
)


@functools.cache
def tokenizer(kind: str) -> Any:
    """A tokenizer trained on some of Python's own source text."""
    texts = [inspect.getsource(module) for module in (textwrap, json, inspect)]
    if kind == "bytes":
        return BytesTokenizer()
    if kind == "bpe":
        from gesso.data.tokenizers.bpe import train as train_bpe

        return train_bpe(iter(texts), vocab_size=512)
    if kind == "words":
        from gesso.data.tokenizers.words import train as train_words

        return train_words(iter(texts), classes=400, cap=600)
    if kind == "wordpiece":
        from gesso.data.tokenizers.wordpiece import train as train_wordpiece

        return train_wordpiece(iter(texts), vocab_size=400)
    from gesso.data.tokenizers.sentencepiece import train as train_sentencepiece

    return train_sentencepiece(iter(texts), vocab_size=500, kind="unigram")
