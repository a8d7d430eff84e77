"""Norms by name: layer normalisation, and root mean square without a mean and a bias."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layers import constant
from gesso.models.layers.settings import NormSettings
from gesso.partitioning.axes import shard


class LayerNorm(nnx.Module):
    """Layer normalisation (https://arxiv.org/abs/1607.06450), computed in float32."""

    def __init__(self, sizes: Mapping[str, int], *, epsilon: float):
        self.epsilon = epsilon
        self.scale = constant(1.0, "D", sizes=sizes)
        self.bias = constant(0.0, "D", sizes=sizes)

    def __call__(self, x: jax.Array, letters: str = "BLD") -> jax.Array:
        scale_D, bias_D = shard(self.scale[...], "D"), shard(self.bias[...], "D")
        return shard(normalize(x, scale_D, bias_D, self.epsilon), letters)


def normalize(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last dim.

    The backward pass is written out so that it starts from the normalised values: XLA on CPU
    otherwise computes the residual sum of all layers below again in every norm's backward pass.
    """
    return _normalize(x, scale_D, bias_D, epsilon)


def _normalize_plain(x, scale_D, bias_D, epsilon):
    return _normalize_forward(x, scale_D, bias_D, epsilon)[0]


def _normalize_forward(x, scale_D, bias_D, epsilon):
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    normal = centred * inverse
    y = normal * scale_D.astype(jnp.float32) + bias_D.astype(jnp.float32)
    return y.astype(x.dtype), (normal.astype(x.dtype), inverse, scale_D)


def _normalize_backward(epsilon, saved, dy):
    normal, inverse, scale_D = saved
    dy32, normal32 = dy.astype(jnp.float32), normal.astype(jnp.float32)
    g = dy32 * scale_D.astype(jnp.float32)
    along = (g * normal32).mean(-1, keepdims=True)
    dx = (g - g.mean(-1, keepdims=True) - normal32 * along) * inverse
    rows = tuple(range(dy.ndim - 1))
    dscale_D, dbias_D = (dy32 * normal32).sum(rows), dy32.sum(rows)
    return dx.astype(dy.dtype), dscale_D.astype(scale_D.dtype), dbias_D.astype(scale_D.dtype)


_normalize: Any = jax.custom_vjp(_normalize_plain, nondiff_argnums=(3,))
_normalize.defvjp(_normalize_forward, _normalize_backward)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (https://arxiv.org/abs/1910.07467), in float32."""

    def __init__(self, sizes: Mapping[str, int], *, epsilon: float):
        self.epsilon = epsilon
        self.scale = constant(1.0, "D", sizes=sizes)

    def __call__(self, x: jax.Array, letters: str = "BLD") -> jax.Array:
        return shard(_rms(x, shard(self.scale[...], "D"), self.epsilon), letters)


# The backward pass is written out for the reason that `normalize` gives.
def _rms_plain(x, scale_D, epsilon):
    return _rms_forward(x, scale_D, epsilon)[0]


def _rms_forward(x, scale_D, epsilon):
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    normal = wide * inverse
    y = normal * scale_D.astype(jnp.float32)
    return y.astype(x.dtype), (normal.astype(x.dtype), inverse, scale_D)


def _rms_backward(epsilon, saved, dy):
    normal, inverse, scale_D = saved
    dy32, normal32 = dy.astype(jnp.float32), normal.astype(jnp.float32)
    g = dy32 * scale_D.astype(jnp.float32)
    dx = (g - normal32 * (g * normal32).mean(-1, keepdims=True)) * inverse
    dscale_D = (dy32 * normal32).sum(tuple(range(dy.ndim - 1)))
    return dx.astype(dy.dtype), dscale_D.astype(scale_D.dtype)


_rms: Any = jax.custom_vjp(_rms_plain, nondiff_argnums=(2,))
_rms.defvjp(_rms_forward, _rms_backward)


Norm = LayerNorm | RMSNorm
NORMS: dict[str, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(settings: NormSettings) -> Norm:
    """The norm that a config names, over embed (D)."""
    return NORMS[settings.norm_kind](settings.sizes, epsilon=settings.epsilon)
