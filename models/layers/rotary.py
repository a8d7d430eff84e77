"""Rotary positions (RoFormer, https://arxiv.org/abs/2104.09864): heads turned by their position."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Rotation = Literal["interleaved", "half"]


class Angles(NamedTuple):
    """Cosine and sine, float32 [B, L, pairs]: one angle per pair of turning dims."""

    cos: jax.Array
    sin: jax.Array


def angles(positions_BL: jax.Array, *, dims: int, base: float) -> Angles:
    """The angle of pair i at position p is p * base ** (-2i / dims)."""
    frequency = base ** (-jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    angle = positions_BL[..., None].astype(jnp.float32) * frequency
    return Angles(jnp.cos(angle), jnp.sin(angle))


def rotate(x_BLNH: jax.Array, angles: Angles, *, rotation: Rotation) -> jax.Array:
    """Turn the first 2 * pairs dims of every head, in float32; the others stay as they are.

    interleaved: dims 2i and 2i + 1 are pair i (GPT-J). half: dims i and i + pairs (GPT-NeoX).
    """
    pairs = angles.cos.shape[-1]
    cos, sin = angles.cos[:, :, None], angles.sin[:, :, None]
    turning, still = x_BLNH[..., : 2 * pairs].astype(jnp.float32), x_BLNH[..., 2 * pairs :]
    if rotation == "half":
        first, second = turning[..., :pairs], turning[..., pairs:]
    else:
        first, second = turning[..., ::2], turning[..., 1::2]
    turned = (first * cos - second * sin, second * cos + first * sin)
    if rotation == "half":
        joined = jnp.concatenate(turned, axis=-1)
    else:
        joined = jnp.stack(turned, axis=-1).reshape(turning.shape)
    return jnp.concatenate([joined.astype(x_BLNH.dtype), still], axis=-1)
