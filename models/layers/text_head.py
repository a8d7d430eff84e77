"""What a decoder says of whole texts: features of each text, and logits of its labels."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import einsum_float32, param
from gesso.models.layers.settings import TextHeadSettings
from gesso.partitioning.axes import shard


class TextHead(nnx.Module):
    """Labels of a text by one product without a bias, as the ForSequenceClassification models of
    transformers have it; GPT-1 has a bias as well, which begins at 0.

    config.pooling: "last" reads the features of the text's last token (GPT-1), "concat" these, the
    largest and the mean of all its tokens (ULMFiT, https://arxiv.org/abs/1801.06146).
    """

    def __init__(self, config: TextHeadSettings, key: jax.Array, *, draw: Callable = param):
        self.config = config
        wide = config.embed * (3 if config.pooling == "concat" else 1)
        sizes = config.sizes | {"D": wide}
        self.weight = draw(key, "DY", sizes=sizes, std=config.init_std)

    def read(self, x_BLD: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The features of each text, BPD (D three times as wide of "concat"). batch: "ends"
        i32[B, P], "segments" i32[B, L], text p being segment p + 1; a text that is not there gets
        numbers that mean nothing."""
        last_BPD = at_places(x_BLD, batch["ends"])
        if self.config.pooling == "last":
            return last_BPD
        segments_BL = batch["segments"]

        def pool(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            own_BL1 = (segments_BL == number)[..., None]
            # Padding is below everything for the largest, and nothing to the mean.
            largest = jnp.where(own_BL1, x_BLD, jnp.finfo(x_BLD.dtype).min).max(1)
            count = own_BL1.sum(1)
            mean = jnp.where(own_BL1, x_BLD.astype(jnp.float32), 0).sum(1) / jnp.maximum(count, 1)
            # What is not there must stay a number: the lowest one makes logits that are none.
            return jnp.where(count > 0, largest, 0), mean.astype(x_BLD.dtype)

        numbers = 1 + jnp.arange(batch["ends"].shape[1])
        largest_PBD, mean_PBD = jax.lax.map(pool, numbers)
        three = (last_BPD, jnp.moveaxis(largest_PBD, 0, 1), jnp.moveaxis(mean_PBD, 0, 1))
        return shard(jnp.concatenate(three, axis=-1), "BPD")

    def __call__(self, x_BPD: jax.Array, key: jax.Array | None) -> jax.Array:
        """float32 BPY. No key, no dropout."""
        x_BPD = dropout(x_BPD, self.config.head_dropout, key)
        return einsum_float32("BPD,DY->BPY", x_BPD, jnp.asarray(self.weight))


def at_places(x_BLD: jax.Array, places: jax.Array) -> jax.Array:
    """The features at places i32[B, P] of each row, BPD: rows stay on their devices."""
    return shard(jnp.take_along_axis(x_BLD, places[..., None], axis=1), "BPD")
