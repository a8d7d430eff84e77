"""A word from its characters: convolutions, the highest value of each, highways, a projection.

Character ids are those of published files: 0-255 bytes of UTF-8, 256 and 257 what the words <S> and
</S> consist of, 258 and 259 a word's begin and end, 260 what follows it. The last is a row of the
table like all others, and the convolutions read it too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.elmo.config import ELMoConfig
from gesso.models.layers.layers import add_bias, constant, param, stack
from gesso.partitioning.axes import einsum, shard
from gesso.partitioning.lookup import look_up

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}
CARRY_BIAS = -2.0  # a highway starts by passing on most of what it reads, as published


class Filters(nnx.Module):
    """One convolution of the list: `count` filters over `width` neighbouring characters."""

    def __init__(self, config: ELMoConfig, key: jax.Array, *, width: int, count: int):
        sizes = config.sizes | {"W": width, "A": count}
        std = (width * config.character_embed) ** -0.5
        self.weight = param(key, "WEA", sizes=sizes, std=std)
        self.bias = constant(0.0, "A", sizes=sizes)

    def __call__(self, x_BLCE: jax.Array) -> jax.Array:
        """The highest value of each filter over the word, BLA."""
        # Rounding keeps order, so the bias can wait until after the maximum.
        return add_bias(_highest(x_BLCE, self.weight[...]), self.bias, "A")


def _windows(x_BLCE: jax.Array, width: int) -> jax.Array:
    places = x_BLCE.shape[2] - width + 1
    return jnp.stack([x_BLCE[:, :, at : at + places] for at in range(width)], axis=3)


def _plain(x_BLCE: jax.Array, weight_WEA: jax.Array) -> jax.Array:
    """The highest product of a filter with a window of the word, BLA.

    The backward pass needs where it was, not the products, which are the largest arrays of a step.
    Of equal windows (padding) it is the last: their gradients add up to the same.
    """
    return _forward(x_BLCE, weight_WEA)[0]


def _forward(x_BLCE, weight_WEA):
    y_BLCA = einsum("BLCWE,WEA->BLCA", _windows(x_BLCE, len(weight_WEA)), weight_WEA)
    highest_BLA = y_BLCA.max(2)
    # Two maxima in place of an argmax, which CPUs compute one number at a time.
    place_CA = jnp.arange(y_BLCA.shape[2], dtype=jnp.int16)[:, None]
    at_BLA = jnp.where(y_BLCA == highest_BLA[:, :, None], place_CA, 0).max(2)
    return highest_BLA, (x_BLCE, weight_WEA, at_BLA)


def _backward(saved, dhighest_BLA):
    x_BLCE, weight_WEA, at_BLA = saved
    width, characters = len(weight_WEA), x_BLCE.shape[2]
    place_CA = jnp.arange(characters - width + 1, dtype=jnp.int16)[:, None]
    dy_BLCA = jnp.where(at_BLA[:, :, None] == place_CA, dhighest_BLA[:, :, None], 0)
    dweight_WEA = einsum("BLCWE,BLCA->WEA", _windows(x_BLCE, width), dy_BLCA)
    dx_BLCWE = einsum("BLCA,WEA->BLCWE", dy_BLCA, weight_WEA)
    spread = [(0, 0), (0, 0), (0, 0), (0, 0)]
    dx_BLCE = sum(
        jnp.pad(dx_BLCWE[:, :, :, at], [*spread[:2], (at, width - 1 - at), spread[3]])
        for at in range(width)
    )
    return dx_BLCE, dweight_WEA


_highest: Any = jax.custom_vjp(_plain)
_highest.defvjp(_forward, _backward)


class Highway(nnx.Module):
    """g relu(W x + b) + (1 - g) x with g = sigmoid(W' x + b') (https://arxiv.org/abs/1505.00387).
    Published files call g the carry gate, though it lets the new value through."""

    def __init__(self, config: ELMoConfig, key: jax.Array):
        carry, transform = jax.random.split(key)
        sizes, std = config.sizes, config.features**-0.5
        self.carry = param(carry, "AO", sizes=sizes, std=std)
        self.carry_bias = constant(CARRY_BIAS, "O", sizes=sizes)
        self.transform = param(transform, "AO", sizes=sizes, std=std)
        self.transform_bias = constant(0.0, "O", sizes=sizes)

    def __call__(self, x_BLA: jax.Array) -> jax.Array:
        carry_BLO = add_bias(einsum("BLA,AO->BLO", x_BLA, self.carry), self.carry_bias, "O")
        new_BLO = add_bias(einsum("BLA,AO->BLO", x_BLA, self.transform), self.transform_bias, "O")
        gate_BLA = jax.nn.sigmoid(carry_BLO)
        return gate_BLA * jax.nn.relu(new_BLO) + (1 - gate_BLA) * x_BLA


class Characters(nnx.Module):
    """Kim et al.'s character-aware words (https://arxiv.org/abs/1508.06615), as ELMo has them."""

    def __init__(self, config: ELMoConfig, key: jax.Array):
        self.config, sizes = config, config.sizes
        embed, filters, highways, projection = jax.random.split(key, 4)
        self.embed = param(embed, "XE", sizes=sizes, std=3**-0.5)  # of the published uniform(-1, 1)
        keys = jax.random.split(filters, len(config.filters))
        for number, (width, count) in enumerate(config.filters):
            made = Filters(config, keys[number], width=width, count=count)
            setattr(self, f"filters_{number}", made)
        keys = jax.random.split(highways, max(1, config.highways))
        self.highways = stack(lambda k: Highway(config, k), keys) if config.highways else None
        self.projection = param(projection, "AD", sizes=sizes, std=config.features**-0.5)
        self.projection_bias = constant(0.0, "D", sizes=sizes)

    def __call__(self, characters_BLC: jax.Array) -> jax.Array:
        """Character ids [B, L, C] -> BLD."""
        c = self.config
        characters_BLC = shard(characters_BLC.astype(jnp.int32), "BLC")
        x_BLCE = shard(look_up(self.embed[...], "XE", characters_BLC, "BLC"), "BLCE")
        x_BLA = ACTIVATIONS[c.activation](self._convolve(x_BLCE))
        if self.highways is not None:
            x_BLA, _ = jax.lax.scan(
                lambda x_BLA, layer: (layer(x_BLA), None), shard(x_BLA, "BLA"), self.highways
            )
        y_BLD = einsum("BLA,AD->BLD", x_BLA, self.projection)
        return shard(add_bias(y_BLD, self.projection_bias, "D"), "BLD")

    def _convolve(self, x_BLCE: jax.Array) -> jax.Array:
        """What all filters find, BLA, a part of the words at a time."""
        numbers = range(len(self.config.filters))
        rows, length = x_BLCE.shape[:2]
        chunks = _chunks(rows, length, self.config.chunk_words) if self.config.chunk_words else 1

        def one(x_BLCE: jax.Array) -> jax.Array:
            found = [getattr(self, f"filters_{number}")(x_BLCE) for number in numbers]
            return shard(jnp.concatenate(found, axis=-1), "BLA")

        if chunks == 1:
            return one(x_BLCE)
        columns = length // chunks
        # Columns L / chunks apart: a batch split over B stays where it is.
        parts = jnp.moveaxis(x_BLCE.reshape(rows, columns, chunks, *x_BLCE.shape[2:]), 2, 0)
        found = jax.lax.map(lambda part: one(shard(part, "BLCE")), parts)
        return shard(jnp.moveaxis(found, 0, 2).reshape(rows, length, -1), "BLA")


def _chunks(rows: int, length: int, chunk_words: int) -> int:
    """The fewest equal chunks of whole columns that hold at most `chunk_words` words each."""
    return next(
        n
        for n in range(1, length + 1)
        if length % n == 0 and (n == length or rows * length <= n * chunk_words)
    )
