"""Stacked blocks applied one after another, to whole rows or to what follows a cache."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.attention import Cache, Kind, Rows
from models.gpt_config import GPTConfig
from models.layers import dropout, scan


class Reading(NamedTuple):
    """What becomes of the residual stream between attention and mlp: an encoder-decoder reads its
    source there. per_layer: a tree whose arrays lead with Z. read: (layer's part of it, x_BLD, the
    layer's number, its key or None) -> BLD."""

    per_layer: Any
    read: Callable[[Any, jax.Array, jax.Array, jax.Array | None], jax.Array]


NOTHING = Reading(None, lambda part, x_BLD, layer, key: x_BLD)


def run(
    blocks: Any,
    config: GPTConfig,
    x_BLD: jax.Array,
    rows: Rows,
    key: jax.Array | None,
    *,
    kinds: tuple[Kind, ...],
    output: Callable[[jax.Array], Any],
    reading: Reading = NOTHING,
) -> tuple[jax.Array, tuple[Any, Any]]:
    """(what the last block gives, (`output` of the first block's input, `output` of each block)).

    x_BLD: embeddings, before their dropout. kinds: of attention, cycled over the layers, whose
    number they divide. No key, no dropout.
    """
    keys = None
    if key is not None:
        embed_key, layers_key = jax.random.split(key)
        x_BLD = dropout(x_BLD, config.embedding_dropout, embed_key)
        keys = jax.random.split(layers_key, config.layers)
    first = output(x_BLD)

    def one_layer(x_BLD: jax.Array, layer: Any, kind: Kind) -> jax.Array:
        block, part, number, layer_key = layer
        # The block splits its key in three.
        read_key = None if layer_key is None else jax.random.fold_in(layer_key, 3)

        def between(x_BLD: jax.Array) -> jax.Array:
            return reading.read(part, x_BLD, number, read_key)

        return block(x_BLD, rows, kind=kind, layer=number, key=layer_key, between=between)

    x_BLD, outputs = scan(
        one_layer,
        x_BLD,
        (blocks, reading.per_layer, jnp.arange(config.layers), keys),
        kinds=kinds,
        remat=config.remat,
        unroll=config.unroll,
        output=output,
    )
    return x_BLD, (first, outputs)


def follow(
    blocks: Any,
    config: GPTConfig,
    start: Callable[[Mapping[str, jax.Array]], tuple[jax.Array, Rows]],
    cache: Cache,
    batch: Mapping[str, jax.Array],
    *,
    kinds: tuple[Kind, ...],
    reading: Reading = NOTHING,
) -> tuple[jax.Array, Cache]:
    """What the last block gives of L tokens that follow the `cache.length` before them, and the
    cache with them in it. start: a batch's embeddings and rows."""
    tokens_BL = batch["tokens"]
    if (length := tokens_BL.shape[1]) > (room := cache.segments_BS.shape[1]):
        raise ValueError(f"{length} tokens do not fit a cache of {room}")
    segments_BL = batch.get("segments", jnp.ones_like(tokens_BL))
    counted_BL = jnp.broadcast_to(cache.length + jnp.arange(length), tokens_BL.shape)
    x_BLD, rows = start({**batch, "positions": batch.get("positions", counted_BL)})
    rows = rows._replace(segments_BL=segments_BL)
    cache = cache._replace(
        segments_BS=jax.lax.dynamic_update_slice(cache.segments_BS, segments_BL, (0, cache.length))
    )

    def one_layer(carry: Any, layer: Any, kind: Kind) -> Any:
        block, part, number = layer

        def between(x_BLD: jax.Array) -> jax.Array:
            return reading.read(part, x_BLD, number, None)

        x_BLD, cache = carry
        return block.decode(x_BLD, rows, cache, kind=kind, layer=number, between=between)

    (x_BLD, cache), _ = scan(
        one_layer,
        (x_BLD, cache),
        (blocks, reading.per_layer, jnp.arange(config.layers)),
        kinds=kinds,
        remat="none",
        unroll=config.unroll,
        output=lambda carry: None,
    )
    return x_BLD, cache._replace(length=cache.length + length)


def empty_cache(config: GPTConfig, rows: int, length: int, dtype: Any) -> Cache:
    """Room for `length` tokens of every row, none of them filled."""
    shape = (config.layers, rows, length, config.heads, config.head_dim)
    return Cache(
        k_ZBSNH=jnp.zeros(shape, dtype),
        v_ZBSNH=jnp.zeros(shape, dtype),
        segments_BS=jnp.zeros((rows, length), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )
