"""What all ways of decoding with a cache share: the start, rows of a cache, sampling, placement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gesso.models.model import Model
from gesso.partitioning.mesh import BATCH_AXES, batch_splits


def begin(model: Model, params: Any, batch: Mapping[str, jax.Array], max_tokens: int) -> Any:
    """(cache, token i32[B], position i32[B]): all that is given has been read but each row's last
    token, which stands at that position.

    batch: "tokens" i32[B, P], what the decoder reads first, left-padded where it has "segments" and
    "positions" too; and "source" (with "source_segments", "source_positions") of an
    encoder-decoder. The cache has room for the tokens and `max_tokens` more.
    """
    tokens_BL = batch["tokens"]
    rows, length = tokens_BL.shape
    if "source" in batch:
        cache = model.encode(params, batch, length + max_tokens)
    else:
        dtype = jax.tree.leaves(params)[0].dtype
        cache = model.init_cache(rows, length + max_tokens, dtype)
    places_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
    positions_BL = batch.get("positions", places_BL)
    if length > 1:
        given = {"tokens": tokens_BL, "positions": positions_BL}
        given["segments"] = batch.get("segments", jnp.ones_like(tokens_BL))
        before = {name: leaf[:, :-1] for name, leaf in given.items()}
        _, cache = model.decode(params, cache, before, "last")
    return cache, tokens_BL[:, -1], positions_BL[:, -1]


def check_room(model: Model, batch: Mapping[str, Any], max_tokens: int) -> None:
    """Raises ValueError where tokens and continuation exceed the model's positions."""
    longest, given = model.config.longest, batch["tokens"].shape[1]
    if "positions" in batch:
        given = int(batch["positions"].max()) + 1
    if longest is not None and given + max_tokens - 1 > longest:
        raise ValueError(
            f"{given} tokens and {max_tokens} more exceed the model's {longest} positions; make"
            f" max_tokens at most {longest + 1 - given}"
        )


def take_rows(cache: Any, rows_R: jax.Array, *, source: Literal["take", "keep"]) -> Any:
    """A decoding cache of the rows at these indices. Its arrays are found by their letters
    ("k_ZBSKH"); those without B are the same for all rows. source: whether what lies under "source"
    is taken too, or is already that of these rows."""

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        letters = names[-1].rpartition("_")[2]
        if not letters.isupper() or "B" not in letters or (source == "keep" and "source" in names):
            return leaf
        return jnp.take(leaf, rows_R, axis=letters.index("B"))

    return jax.tree_util.tree_map_with_path(take, cache)


def restrict(logits_BV: jax.Array, *, top_k: int, top_p: jax.Array | float) -> jax.Array:
    """-inf for all but the `top_k` likeliest (0: all), and of those for all but the fewest
    likeliest whose probability reaches `top_p`; the likeliest always stays."""
    if top_k:
        kth_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    ordered_BV = -jnp.sort(-logits_BV, axis=-1)
    share_BV = jax.nn.softmax(ordered_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    first = jnp.arange(logits_BV.shape[-1]) == 0
    floor_BV = jnp.where((before_BV < top_p) | first, ordered_BV, jnp.inf)
    return jnp.where(logits_BV < floor_BV.min(-1, keepdims=True), -jnp.inf, logits_BV)


def until(ids: list[int], end: int) -> list[int]:
    """The ids before the first `end`."""
    return ids[: ids.index(end)] if end in ids else ids


def replication(params: Any) -> NamedSharding | None:
    """Where params are split over a mesh, the placement in which every host sees all tokens."""
    first = jax.tree.leaves(params)[0]
    placed = first.sharding if isinstance(first, jax.Array) else None
    return NamedSharding(placed.mesh, P()) if isinstance(placed, NamedSharding) else None


@dataclass(frozen=True)
class OverRows:
    """Where rows go: each to a part of the mesh that holds the params, or where they are."""

    mesh: Mesh | None

    @property
    def parts(self) -> int:
        """What the number of rows must be a multiple of."""
        return 1 if self.mesh is None else batch_splits(self.mesh)

    def place(self, tree: Any) -> Any:
        """A tree of numpy arrays whose first dim is the rows, the same on every host."""
        if self.mesh is None:
            return tree
        split = NamedSharding(self.mesh, P(BATCH_AXES))

        def put(leaf: Any) -> jax.Array:
            return jax.make_array_from_callback(leaf.shape, split, lambda at: leaf[at])

        return jax.tree.map(put, tree)


def over_rows(params: Any) -> OverRows:
    """Rows over the batch axes of the mesh on which params are, if they are on one of ours."""
    everywhere = replication(params)
    mesh = None if everywhere is None else everywhere.mesh
    if isinstance(mesh, Mesh) and set(BATCH_AXES) <= set(mesh.axis_names):
        return OverRows(mesh)
    return OverRows(None)
