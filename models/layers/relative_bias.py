"""T5's relative positions: a number for each head and bucket of distances, added to q.k."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layers import param
from gesso.models.layers.visibility import Direction
from gesso.partitioning.axes import in_use, shard


class RelativeBias(nnx.Module):
    """The table of one side's buckets (https://arxiv.org/abs/1910.10683, section 2.1)."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        key: jax.Array,
        *,
        furthest: int,
        direction: Direction,
        std: float,
    ):
        self.furthest = furthest
        self.direction: Direction = direction
        self.table = param(key, "RN", sizes=sizes, std=std)

    def __call__(self, queries_L: jax.Array, keys_S: jax.Array) -> jax.Array:
        """float32 [N, L, S] for queries and keys at these places of a row."""
        table_RN = in_use(self.table[...], "RN").astype(jnp.float32)
        buckets_LS = bucket(
            keys_S[None, :] - queries_L[:, None],
            buckets=table_RN.shape[0],
            furthest=self.furthest,
            direction=self.direction,
        )
        return shard(jnp.moveaxis(table_RN[buckets_LS], -1, 0), "NLS")


def bucket(distance: jax.Array, *, buckets: int, furthest: int, direction: Direction) -> jax.Array:
    """The bucket, i32 in [0, buckets), of a key `distance` places after its query.

    "both": the upper half is for keys after the query. "before": keys after it share bucket 0 with
    the query itself. Of a direction's buckets half are one place each, the others grow with the
    logarithm of the distance up to `furthest`; what is beyond shares the last
    (https://github.com/google-research/text-to-text-transfer-transformer, mesh_tensorflow's
    _relative_position_bucket).
    """
    first: jax.Array | int = 0
    if direction == "both":
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        away = jnp.abs(distance)
    else:
        away = jnp.maximum(-distance, 0)
    single = buckets // 2
    # float32, as published: which of two buckets a power of the base falls into hangs on it.
    ratio = jnp.log(jnp.maximum(away, single).astype(jnp.float32) / single)
    grown = single + (ratio / math.log(furthest / single) * (buckets - single)).astype(jnp.int32)
    return first + jnp.where(away < single, away, jnp.minimum(grown, buckets - 1))
