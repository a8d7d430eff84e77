"""Stacked blocks applied one after another, to whole rows or to what follows a cache."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gesso.models.layers.attention import Cache, Kind, Rows
from gesso.models.layers.dropout import dropout
from gesso.models.layers.hooks import LayerHooks, Prefix, apply_focus
from gesso.models.layers.layers import scan
from gesso.models.layers.settings import BlockSettings
from gesso.models.trees import Pytree
from gesso.partitioning.axes import leave_to_compiler


class Reading(NamedTuple):
    """What becomes of the residual stream between attention and mlp: an encoder-decoder reads its
    source there. per_layer: a tree whose arrays lead with Z. read: (layer's part of it, x_BLD, the
    layer's number, its key or None) -> BLD."""

    per_layer: Pytree
    read: Callable[[Pytree, jax.Array, jax.Array, jax.Array | None], jax.Array]


NOTHING = Reading(None, lambda part, x_BLD, layer, key: x_BLD)
UNHOOKED = LayerHooks()


def run(
    blocks: nnx.Module,
    config: BlockSettings,
    x_BLD: jax.Array,
    rows: Rows,
    key: jax.Array | None,
    *,
    kinds: tuple[Kind, ...],
    output: Callable[[jax.Array], Pytree],
    reading: Reading = NOTHING,
    hooks: LayerHooks = UNHOOKED,
) -> tuple[jax.Array, tuple[Pytree, Pytree]]:
    """(what the last block gives, (`output` of the first block's input, `output` of each block)).

    x_BLD: embeddings, before their dropout. kinds: of attention, cycled over the layers, whose
    number they divide. No key, no dropout.
    """
    keys = None
    if key is not None:
        embed_key, layers_key = jax.random.split(key)
        x_BLD = dropout(x_BLD, config.embedding_dropout, embed_key)
        keys = jax.random.split(layers_key, config.layers)
    # The caller says what is kept of each layer: all of it would be the largest array of a step.
    first = output(x_BLD)

    def one_layer(x_BLD: jax.Array, layer: Pytree, kind: Kind) -> jax.Array:
        block, part, number, layer_key, hook = layer
        x_BLD, read = _apply_hooks(hooks, hook, x_BLD, rows)
        # The block splits its key in three.
        read_key = None if layer_key is None else jax.random.fold_in(layer_key, 3)

        def between(x_BLD: jax.Array) -> jax.Array:
            return reading.read(part, x_BLD, number, read_key)

        return block(x_BLD, read, kind=kind, layer=number, key=layer_key, between=between)

    x_BLD, outputs = scan(
        one_layer,
        x_BLD,
        (blocks, reading.per_layer, jnp.arange(config.layers), keys, hooks.per_layer),
        kinds=kinds,
        remat=config.remat,
        unroll=config.unroll,
        output=output,
    )
    return x_BLD, (first, outputs)


def follow(
    blocks: nnx.Module,
    config: BlockSettings,
    start: Callable[[Mapping[str, jax.Array]], tuple[jax.Array, Rows]],
    cache: Cache,
    batch: Mapping[str, jax.Array],
    *,
    kinds: tuple[Kind, ...],
    reading: Reading = NOTHING,
    prefix: Pytree = None,
) -> tuple[jax.Array, Cache]:
    """What the last block gives of L tokens that follow the `cache.length` before them, and the
    cache with them in it. start: a batch's embeddings and rows. prefix: {"k", "v"}, ZJKH, of the
    virtual tokens in front of the row, which the cache does not hold."""
    tokens_BL = batch["tokens"]
    if (length := tokens_BL.shape[1]) > (room := cache.segments_BS.shape[1]):
        raise ValueError(f"{length} tokens do not fit a cache of {room}")
    segments_BL = batch.get("segments", jnp.ones_like(tokens_BL))
    counted_BL = jnp.broadcast_to(cache.length + jnp.arange(length), tokens_BL.shape)
    places_BL = batch.get("positions", counted_BL)
    x_BLD, rows = start({**batch, "positions": places_BL})
    rows = rows._replace(segments_BL=segments_BL)
    cache = cache._replace(
        segments_BS=jax.lax.dynamic_update_slice(cache.segments_BS, segments_BL, (0, cache.length))
    )

    def one_layer(carry: Pytree, layer: Pytree, kind: Kind) -> Pytree:
        block, part, number, hook = layer

        def between(x_BLD: jax.Array) -> jax.Array:
            return reading.read(part, x_BLD, number, None)

        x_BLD, cache = carry
        _, read = _apply_hooks(LayerHooks(prefix, places_BL), hook, x_BLD, rows)
        return block.decode(x_BLD, read, cache, kind=kind, layer=number, between=between)

    # The cache is carried whole, not scanned over: XLA then updates it in place.
    (x_BLD, cache), _ = scan(
        one_layer,
        (x_BLD, cache),
        (blocks, reading.per_layer, jnp.arange(config.layers), prefix and {"prefix": prefix}),
        kinds=kinds,
        remat="none",
        unroll=config.unroll,
        output=lambda carry: None,
    )
    return x_BLD, cache._replace(length=cache.length + length)


def virtual_layers(
    blocks: nnx.Module,
    config: BlockSettings,
    x_1JD: jax.Array,
    rows: Rows,
    *,
    kinds: tuple[Kind, ...],
) -> dict[str, jax.Array]:
    """The keys and values, {"k", "v"} ZJKH, that virtual tokens have in every layer of a decoder.

    Nothing before them depends on a document, so they are read once for all rows. No dropout.
    """

    def one_layer(carry: Pytree, layer: Pytree, kind: Kind) -> Pytree:
        block, number = layer
        x_1JD, keys_values = block.virtual(carry[0], rows, kind=kind, layer=number)
        return x_1JD, keys_values

    shape = (x_1JD.shape[1], config.sizes[config.key_letter], config.head_dim)
    empty = jnp.zeros(shape, x_1JD.dtype)
    with leave_to_compiler():
        _, (k_ZJKH, v_ZJKH) = scan(
            one_layer,
            (x_1JD, (empty, empty)),
            (blocks, jnp.arange(config.layers)),
            kinds=kinds,
            remat=config.remat,
            unroll=config.unroll,
            output=lambda carry: carry[1],
        )
    return {"k": k_ZJKH, "v": v_ZJKH}


def _apply_hooks(
    hooks: LayerHooks, hook: Pytree, x_BLD: jax.Array, rows: Rows
) -> tuple[jax.Array, Rows]:
    """What one layer reads. hook: its part of hooks.per_layer."""
    if not hook:
        return x_BLD, rows
    if "focus" in hook:
        x_BLD = apply_focus(x_BLD, hook["focus"], hooks.classes_BL)
    if "prefix" in hook:
        prefix = Prefix(hook["prefix"]["k"], hook["prefix"]["v"], hooks.places_BL)
        rows = rows._replace(prefix=prefix)
    return x_BLD, rows


def empty_cache(config: BlockSettings, rows: int, length: int, dtype: DTypeLike) -> Cache:
    """Room for `length` tokens of every row, none of them filled."""
    shape = (config.layers, rows, length, config.sizes[config.key_letter], config.head_dim)
    return Cache(
        k_ZBSKH=jnp.zeros(shape, dtype),
        v_ZBSKH=jnp.zeros(shape, dtype),
        segments_BS=jnp.zeros((rows, length), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )
