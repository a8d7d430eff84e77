"""What reads an encoder's features: one product with a bias, and BERT's head of masked tokens."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.bert_config import BERTConfig
from models.gpt import ACTIVATIONS
from models.layers import LayerNorm, constant, einsum_float32
from partitioning.axes import einsum, shard


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


class MaskedHead(nnx.Module):
    """What features become before the vocabulary: a product, an activation, a norm. The table is
    the embeddings', or `table`."""

    def __init__(self, config: BERTConfig, key: jax.Array, *, draw: Callable):
        sizes = config.sizes
        dense, table = jax.random.split(key)
        std, square = config.init_std, sizes | {"F": config.embed}
        self.activation = config.activation
        self.dense = Dense(dense, "DF", sizes=square, std=std, draw=draw)
        self.norm = LayerNorm(sizes, epsilon=config.epsilon)
        self.table = draw(table, "VD", sizes=sizes, std=std) if config.head == "untied" else None
        self.bias = constant(0.0, "V", sizes=sizes)

    def __call__(self, x: jax.Array, letters: str) -> jax.Array:
        """x: `letters`, BMD or BLD, and so the result."""
        h = ACTIVATIONS[self.activation](self.dense(x, letters))
        return self.norm(shard(h, letters), letters)
