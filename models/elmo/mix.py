"""A task's own mixture of ELMo's layers (https://arxiv.org/abs/1802.05365, equation 1)."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layers import constant

EPSILON = 1e-12


class ScalarMix(nnx.Module):
    """gamma * sum over layers of softmax(weights)[layer] * activations[layer].

    norm: "layer" first normalises every layer, by one mean and one variance over all real places
    and dims of the whole batch, as published; without scale and bias.
    """

    def __init__(self, layers: int, *, norm: Literal["none", "layer"] = "none"):
        sizes: Mapping[str, int] = {"Z": layers}
        self.norm = norm
        self.weights = constant(0.0, "Z", sizes=sizes)
        self.gamma = constant(1.0, "", sizes=sizes)

    def __call__(self, activations_ZBLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
        """BLD. mask_BL: which places hold a token; only the normalisation looks at it."""
        if self.norm == "layer":
            activations_ZBLD = jax.vmap(lambda x_BLD: _normalize(x_BLD, mask_BL))(activations_ZBLD)
        shares_Z = jax.nn.softmax(self.weights[...])
        return self.gamma[...] * jnp.einsum("Z,ZBLD->BLD", shares_Z, activations_ZBLD)


def _normalize(x_BLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
    mask_BL1 = mask_BL.astype(x_BLD.dtype)[..., None]
    count = jnp.maximum(mask_BL1.sum() * x_BLD.shape[-1], 1)
    mean = (x_BLD * mask_BL1).sum() / count
    variance = jnp.square((x_BLD - mean) * mask_BL1).sum() / count
    return (x_BLD - mean) / jnp.sqrt(variance + EPSILON)
