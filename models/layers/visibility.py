"""Who sees whom in a row: windows, directions, segments, and what sees nobody."""

from typing import Literal

import jax
import jax.numpy as jnp

from gesso.models.layers.settings import Padding

Direction = Literal["before", "both"]


def sees(
    queries_L: jax.Array,
    keys_S: jax.Array,
    segments_BL: jax.Array | None,
    segments_BS: jax.Array | None,
    *,
    window: int | None,
    direction: Direction = "before",
) -> jax.Array:
    """bool [B or 1, L, S]: which key (column) each query (row) sees; both are places in the row.

    A query sees its own segment, up to itself or all of it ("both"); padding (segment 0) is seen by
    nobody. No document reads what padding sees. Of both directions it is every document, as in
    published encoders, whose loss of an answer's place runs over padding too; of one it is nobody:
    `blind_sees` says what `weigh` gives it, which is finite.
    """
    if direction == "both":
        visible = jnp.ones((1, queries_L.shape[0], keys_S.shape[0]), bool)
    else:
        visible = reach(queries_L, keys_S, window=window)
    if segments_BL is not None and segments_BS is not None:
        same = segments_BL[:, :, None] == segments_BS[:, None, :]
        if direction == "both":
            same = same | (segments_BL == 0)[:, :, None]
        visible = visible & same & (segments_BS != 0)[:, None, :]
    return visible


def blind_sees(
    queries_L: jax.Array,
    keys_S: jax.Array,
    segments_BS: jax.Array | None,
    *,
    window: int | None,
    padding: Padding,
) -> jax.Array | None:
    """bool [B or 1, L, S]: whose values a query that sees no key averages; None: everybody's.

    Nothing of a document depends on it, but a published loss of left-padded rows does: padding
    predicts their first token (GPTConfig.padding).
    """
    if padding == "row" or segments_BS is None:
        return None
    within = reach(queries_L, keys_S, window=window)
    return within if padding == "reach" else ~within & (segments_BS != 0)[:, None, :]


def reach(queries_L: jax.Array, keys_S: jax.Array, *, window: int | None) -> jax.Array:
    """bool [1, L, S]: the keys at or before each query, at most `window` of them."""
    distance_LS = queries_L[:, None] - keys_S[None, :]
    within_LS = distance_LS >= 0
    return (within_LS if window is None else within_LS & (distance_LS < window))[None]


def same_segment(segments_BL: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """bool [B, L, S]: keys of the query's own segment; nobody sees padding (0)."""
    same_BLS = segments_BL[:, :, None] == segments_BS[:, None, :]
    return same_BLS & (segments_BS != 0)[:, None, :]
