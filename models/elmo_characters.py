"""A word from its characters: convolutions, the highest value of each, highways, a projection.

Character ids are those of published files: 0-255 bytes of UTF-8, 256 and 257 what the words <S> and
</S> consist of, 258 and 259 a word's begin and end, 260 what follows it. The last is a row of the
table like all others, and the convolutions read it too.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models.elmo_config import ELMoConfig
from models.layers import add_bias, constant, look_up, param, stack
from partitioning.axes import einsum, in_use, shard

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
        width = self.weight[...].shape[0]
        places = x_BLCE.shape[2] - width + 1
        windows = [x_BLCE[:, :, at : at + places] for at in range(width)]
        x_BLCWE = jnp.stack(windows, axis=3)
        y_BLCA = einsum("BLCWE,WEA->BLCA", x_BLCWE, self.weight)
        # Rounding keeps order, so the bias can wait until after the maximum.
        return add_bias(y_BLCA.max(2), self.bias, "A")


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
        x_BLCE = shard(look_up(in_use(self.embed[...], "XE"), characters_BLC), "BLCE")
        found = [getattr(self, f"filters_{number}")(x_BLCE) for number in range(len(c.filters))]
        x_BLA = ACTIVATIONS[c.activation](jnp.concatenate(found, axis=-1))
        if self.highways is not None:
            x_BLA, _ = jax.lax.scan(
                lambda x_BLA, layer: (layer(x_BLA), None), shard(x_BLA, "BLA"), self.highways
            )
        y_BLD = einsum("BLA,AD->BLD", x_BLA, self.projection)
        return shard(add_bias(y_BLD, self.projection_bias, "D"), "BLD")
