"""What every family's equations offer, and what a family may leave out."""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import jax
from flax import nnx

from gesso.models.facts import Facts
from gesso.models.layers.hooks import NONE, Hooks

Batch = Mapping[str, jax.Array]
Config = TypeVar("Config", bound=Facts)


class Network(nnx.Module):
    """Base class of every family's NNX module: `__init__(config, key)` declares the parameters.

    `inputs` and `outputs` are every family's. One that predicts the next token sets `writes` and
    has `decode` and `logits`; with an encoder also `has_encoder` and `encode`, else `init_cache`.
    Its objectives call what else they need (features, head, ...).
    """

    hooks: Hooks = NONE
    writes: ClassVar[bool] = False
    has_encoder: ClassVar[bool] = False

    def __init__(self, config: Facts, key: jax.Array):
        raise NotImplementedError

    @staticmethod
    def inputs(config: Facts) -> dict[str, int | None]:
        """{batch leaf it reads: rows of the table the leaf indexes, or None}."""
        raise NotImplementedError

    def outputs(self, batch: Batch, key: jax.Array | None, *, hidden: bool) -> dict[str, jax.Array]:
        """What `Model.apply` returns."""
        raise NotImplementedError

    @staticmethod
    def init_cache(config: Facts, rows: int, length: int, dtype: jax.typing.DTypeLike) -> object:
        """An empty cache; Model.init_cache says more."""
        raise ValueError(f"a {config.family} model has no cache without a source")

    def encode(self, batch: Batch, length: int) -> object:
        """The cache of rows that have read their source; Model.encode says more."""
        raise ValueError("this model has no encoder and decoder; no source")

    def decode(self, cache: object, batch: Batch) -> tuple[jax.Array, object]:
        """Features of the tokens that follow those in the cache, and the cache with them."""
        raise ValueError("this model does not predict the next token")

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """float32 BLV of features."""
        raise ValueError("this model has no logits of tokens")
