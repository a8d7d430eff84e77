"""Root mean square normalisation: no mean is taken out, and there is no bias."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import constant
from partitioning.axes import shard


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (https://arxiv.org/abs/1910.07467), in float32."""

    def __init__(self, sizes: Mapping[str, int], *, epsilon: float):
        self.epsilon = epsilon
        self.scale = constant(1.0, "D", sizes=sizes)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        wide = x_BLD.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        scale_D = shard(self.scale[...], "D").astype(jnp.float32)
        return shard((wide * inverse * scale_D).astype(x_BLD.dtype), "BLD")
