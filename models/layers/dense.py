"""What reads features at some places of a row: one product with a bias."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layers import constant, einsum_float32
from gesso.partitioning.axes import einsum, shard


class Dense(nnx.Module):
    """One product and a bias, at any places of a row.

    letters: "DF" (here as wide as embed: split over `tensor` as an mlp is) or "DY".
    """

    def __init__(
        self, key: jax.Array, letters: str, *, sizes: Mapping[str, int], std: float, draw: Callable
    ):
        self.letters = letters
        self.weight = draw(key, letters, sizes=sizes, std=std)
        self.bias = constant(0.0, letters[1], sizes=sizes)

    def __call__(
        self, x: jax.Array, letters: str, *, dtype: Literal["compute", "float32"] = "compute"
    ) -> jax.Array:
        """x: `letters`, one of BLD, BMD and BPD. The last letter becomes the weight's other one.
        dtype: of the result; "compute" is x's."""
        made = letters[:2] + self.letters[1]
        product = einsum if dtype == "compute" else einsum_float32
        y = product(f"{letters},{self.letters}->{made}", x, jnp.asarray(self.weight))
        return y + shard(self.bias[...], self.letters[1])
