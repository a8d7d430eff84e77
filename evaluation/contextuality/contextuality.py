"""How contextual a model's word vectors are, layer by layer (Ethayarajh 2019,
https://arxiv.org/abs/1909.00512): sums over sentences on device, on any mesh."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.contextuality.sentences import Plan, Sentence, plan
from gesso.evaluation.generation.decoding import over_rows, replication
from gesso.models.model import Model, build

_BUCKET = 32  # rows are padded to a multiple of this, so that few lengths are compiled

# What is looked at, as evaluation.contextuality.sentences.plan has it.
SETTINGS = {"contexts": 5, "words": 200, "matched": 5, "seed": 0}

Sums = dict[str, jax.Array]


def contextuality(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    sentences: Sequence[Sentence],
    *,
    contexts: int = SETTINGS["contexts"],
    words: int = SETTINGS["words"],
    matched: int = SETTINGS["matched"],
    batch: int = 32,
    seed: int = SETTINGS["seed"],
    compute: str = "float32",
    told: Callable[[int], Any] = int,
) -> dict[str, Any]:
    """{"layers": [figures of the embeddings, then of every layer], "words", "sentences",
    "contexts", "matched", "random_words"}. A word's vector is the mean of its tokens'.

    self_similarity: the mean cosine of a word's vectors in different sentences, over the words that
    are in at least `contexts` sentences (of more than `words` such, that many drawn). 1: the same
    everywhere. random_similarity: that of words drawn one per sentence, the anisotropy; self_over:
    the difference. within_sentence: the mean cosine of a sentence's words with their mean;
    within_over: less random_similarity. explained_centred, explained_uncentred: the share of a
    word's `matched` vectors' variance that their first principal component explains (MEV), of the
    vectors less their mean (what the paper's published code computes for words) and as they are
    (the paper's formula, by singular values); random_centred, random_uncentred: of as many words of
    different sentences (noise of 5 vectors explains .29 too); centred_over, uncentred_over: the
    differences.

    Of an encoder-decoder the encoder's layers. batch: sentences at a time; it changes no figure but
    for rounding, as the mesh on which params are does not. told: called with the number of
    sentences just read. Raises ValueError as evaluation.contextuality.sentences.plan does.
    """
    planned = plan(sentences, contexts=contexts, words=words, matched=max(2, matched), seed=seed)
    if contexts < planned.matched:
        raise ValueError(f"matched {planned.matched} of words in {contexts} sentences; raise that")
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    over = over_rows(params)
    rows = -(-batch // over.parts) * over.parts
    matrices = 1 + max(int(each.max()) for each in planned.random_slot) // planned.matched
    sizes = (len(planned.words), matrices * planned.matched, planned.matched)
    start, add = _compile(model.config, sizes, replication(params))
    sums: Sums = start(params)
    for part, made in _batches(sentences, planned, model, tokenizer, rows):
        sums = add(params, sums, over.place(made))
        told(part)
    host = {name: np.asarray(leaf, np.float64) for name, leaf in jax.device_get(sums).items()}
    return {
        "layers": [
            _figures({name: leaf[layer] for name, leaf in host.items()}, planned, len(sentences))
            for layer in range(len(host["words"]))
        ],
        "words": len(planned.words),
        "sentences": len(sentences),
        "contexts": contexts,
        "matched": planned.matched,
        "random_words": len(sentences),
    }


def _figures(sums: dict[str, np.ndarray], planned: Plan, sentences: int) -> dict[str, float]:
    """Of one layer. words [W, D], drawn [D]: sums of unit vectors; within []: of cosines; slots,
    random_slots [matrices * matched, D]: vectors."""
    counts = planned.contexts.astype(np.float64)
    found = {
        "self_similarity": float(_pairs(sums["words"], counts).mean()),
        "random_similarity": float(_pairs(sums["drawn"], np.float64(sentences))),
        "within_sentence": float(sums["within"] / sentences),
    }
    for name, leaf in (("explained", "slots"), ("random", "random_slots")):
        vectors = sums[leaf].reshape(-1, planned.matched, sums[leaf].shape[-1])
        found[f"{name}_uncentred"] = _first_share(vectors)
        found[f"{name}_centred"] = _first_share(vectors - vectors.mean(1, keepdims=True))
    return found | {
        "self_over": found["self_similarity"] - found["random_similarity"],
        "within_over": found["within_sentence"] - found["random_similarity"],
        "centred_over": found["explained_centred"] - found["random_centred"],
        "uncentred_over": found["explained_uncentred"] - found["random_uncentred"],
    }


def _pairs(sum_of_units: np.ndarray, count: Any) -> np.ndarray:
    """The mean cosine over all pairs of `count` different vectors, of the sum of their units."""
    return ((sum_of_units**2).sum(-1) - count) / (count**2 - count)


def _first_share(vectors: np.ndarray) -> float:
    """The mean over matrices [matrices, n, D] of the first squared singular value's share. Where
    all vectors are equal, centred nothing is left to explain: such a matrix counts as 1."""
    squares = np.linalg.svd(vectors, compute_uv=False) ** 2
    total = squares.sum(-1)
    whole = (np.linalg.norm(vectors, axis=-1) ** 2).mean(-1)
    return float(
        np.where(total > 1e-12 * whole, squares[:, 0] / np.maximum(total, 1e-300), 1).mean()
    )


@functools.lru_cache(maxsize=8)
def _compile(config: Any, sizes: tuple[int, int, int], everywhere: NamedSharding | None) -> Any:
    """(start(params) -> sums of nothing, add(params, sums, batch) -> sums). sums: of every layer
    "words" [W, D], "drawn" [D], "within" [], "slots", "random_slots" [matrices * matched, D]."""
    model = build(config)
    kinds, random_slots, matched = sizes
    rows_of = {"words": kinds, "slots": kinds * matched, "random_slots": random_slots}

    def layers_of(params: Any, batch: Any) -> jax.Array:
        outputs = model.apply(params, batch, hidden=True)
        return outputs["encoder_hidden" if model.has_encoder else "hidden"].astype(jnp.float32)

    def add(params: Any, sums: Sums, batch: Any) -> Sums:
        read = {name: leaf for name, leaf in batch.items() if name not in _PLANNED}
        word_BL, places = batch["word"], batch["kind"].shape[1]
        # The mean of every word's tokens, as a product with who belongs where.
        belongs_BLW = word_BL[..., None] == jnp.arange(places)
        tokens_BW = belongs_BLW.sum(1)
        share_BLW = belongs_BLW / jnp.maximum(tokens_BW, 1)[:, None]
        there_BW = tokens_BW > 0
        words_B = jnp.maximum(there_BW.sum(1), 1)

        def layer(sums: Sums, hidden_BLD: jax.Array) -> Sums:
            vectors = jnp.einsum("BLW,BLD->BWD", share_BLW, hidden_BLD, precision="highest")
            units = _unit(vectors)
            mean_BD = vectors.sum(1) / words_B[:, None]
            cosines = jnp.einsum("BWD,BD->BW", units, _unit(mean_BD), precision="highest")
            of_sentences = jnp.where(there_BW, cosines, 0).sum(1) / words_B

            def add_at(values: jax.Array, name: str, where: jax.Array) -> jax.Array:
                # Numbers below 0 are of none: they go where a row too many is dropped.
                size = rows_of[name]
                flat = jnp.where(where < 0, size, where).reshape(-1)
                values = values.reshape(-1, values.shape[-1])
                return sums[name].at[flat].add(values, mode="drop")

            drawn = jnp.where(batch["drawn"][..., None], units, 0).sum((0, 1))
            return {
                "words": add_at(units, "words", batch["kind"]),
                "slots": add_at(vectors, "slots", batch["slot"]),
                "random_slots": add_at(vectors, "random_slots", batch["random_slot"]),
                "drawn": sums["drawn"] + drawn,
                "within": sums["within"] + of_sentences.sum(),
            }

        return jax.lax.map(lambda pair: layer(*pair), (sums, layers_of(params, read)))

    def start(params: Any) -> Sums:
        batch = {name: jnp.ones((1, 2), jnp.int32) for name in ("tokens", "source")}
        if config.reads == "characters":
            batch["characters"] = jnp.zeros((1, 2, config.characters), jnp.int32)
        shape = jax.eval_shape(layers_of, params, batch)
        depth, width = shape.shape[0], shape.shape[-1]
        made = {name: jnp.zeros((depth, rows, width)) for name, rows in rows_of.items()}
        return made | {"drawn": jnp.zeros((depth, width)), "within": jnp.zeros(depth)}

    compiled = functools.partial(jax.jit, out_shardings=everywhere)
    return compiled(start), compiled(add, donate_argnums=1)


_PLANNED = ("word", "kind", "slot", "random_slot", "drawn")


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _batches(
    sentences: Sequence[Sentence], planned: Plan, model: Model, tokenizer: Tokenizer, rows: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(how many sentences, arrays of exactly `rows` rows): sentences of alike lengths together, the
    last of a length filled up with rows in which no token is part of a word."""

    def bucket(number: int) -> int:
        return -(-len(sentences[number].ids) // _BUCKET) * _BUCKET

    places = sorted(range(len(sentences)), key=bucket)
    for start in range(0, len(places), rows):
        part = places[start : start + rows]
        length = min(max(map(bucket, part)), model.config.longest or max(map(bucket, part)))
        made = {name: np.full((rows, length), -1, np.int32) for name in _PLANNED[:-1]}
        made["drawn"] = np.zeros((rows, length), bool)
        tokens = np.zeros((rows, length), np.int32)
        segments = np.zeros((rows, length), np.int32)
        for row, number in enumerate(part):
            sentence, words = sentences[number], len(sentences[number].words)
            size = len(sentence.ids)
            tokens[row, :size], segments[row, :size] = sentence.ids, 1
            made["word"][row, :size] = sentence.word
            for name, of in (
                ("kind", planned.kind),
                ("slot", planned.slot),
                ("random_slot", planned.random_slot),
            ):
                made[name][row, :words] = of[number]
            made["drawn"][row, planned.drawn[number]] = True
        yield len(part), made | _read(tokens, segments, model, tokenizer)


def _read(
    tokens: np.ndarray, segments: np.ndarray, model: Model, tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """What the model's family reads."""
    if model.has_encoder:
        start = np.zeros((len(tokens), 1), np.int32)
        return {"source": tokens, "source_segments": segments, "tokens": start}
    if model.config.reads != "characters":
        return {"tokens": tokens, "segments": segments}
    from gesso.data.tokenizers.words import shorten

    assert tokenizer.spelling is not None, "a model of characters has a tokenizer of words"
    spelled = shorten(tokenizer.spelling, characters=model.config.characters)[tokens]
    return {"characters": spelled.astype(np.int32), "segments": segments, "tokens": tokens}
