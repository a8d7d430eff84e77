"""Root mean square normalisation: no mean is taken out, and there is no bias."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layers import constant
from gesso.partitioning.axes import shard


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (https://arxiv.org/abs/1910.07467), in float32."""

    def __init__(self, sizes: Mapping[str, int], *, epsilon: float):
        self.epsilon = epsilon
        self.scale = constant(1.0, "D", sizes=sizes)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return shard(_rms(x_BLD, shard(self.scale[...], "D"), self.epsilon), "BLD")


# The backward pass is written out for the reason that models.layers.layers.normalize gives.
def _plain(x, scale_D, epsilon):
    return _forward(x, scale_D, epsilon)[0]


def _forward(x, scale_D, epsilon):
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    normal = wide * inverse
    y = normal * scale_D.astype(jnp.float32)
    return y.astype(x.dtype), (normal.astype(x.dtype), inverse, scale_D)


def _backward(epsilon, saved, dy):
    normal, inverse, scale_D = saved
    dy32, normal32 = dy.astype(jnp.float32), normal.astype(jnp.float32)
    g = dy32 * scale_D.astype(jnp.float32)
    dx = (g - normal32 * (g * normal32).mean(-1, keepdims=True)) * inverse
    dscale_D = (dy32 * normal32).sum(tuple(range(dy.ndim - 1)))
    return dx.astype(dy.dtype), dscale_D.astype(scale_D.dtype)


_rms: Any = jax.custom_vjp(_plain, nondiff_argnums=(2,))
_rms.defvjp(_forward, _backward)
