"""BERT's head of masked tokens."""

from collections.abc import Callable

import jax
from flax import nnx

from gesso.models.bert.config import BERTConfig
from gesso.models.layers.dense import Dense
from gesso.models.layers.layers import constant
from gesso.models.layers.mlp import ACTIVATIONS
from gesso.models.layers.norms import LayerNorm
from gesso.models.layers.settings import Activation
from gesso.partitioning.axes import shard


class MaskedHead(nnx.Module):
    """What features become before the vocabulary: a product, an activation, a norm. The table is
    the embeddings', or `table`."""

    def __init__(self, config: BERTConfig, key: jax.Array, *, draw: Callable):
        sizes = config.sizes
        dense, table = jax.random.split(key)
        std, square = config.init_std, sizes | {"F": config.embed}
        self.activation: Activation = config.activation
        self.dense = Dense(dense, "DF", sizes=square, std=std, draw=draw)
        self.norm = LayerNorm(sizes, epsilon=config.epsilon)
        self.table = draw(table, "VD", sizes=sizes, std=std) if config.head == "untied" else None
        self.bias = constant(0.0, "V", sizes=sizes)

    def __call__(self, x: jax.Array, letters: str) -> jax.Array:
        """x: `letters`, BMD or BLD, and so the result."""
        h = ACTIVATIONS[self.activation](self.dense(x, letters))
        return self.norm(shard(h, letters), letters)
