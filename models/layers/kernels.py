"""Ways to compute attention, given who sees whom: dense, in blocks, and two fused kernels.

All take queries BLNH and keys and values BSKH, of which N / K queries share each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gesso.models.layers.dropout import dropout
from gesso.models.layers.hooks import Prefix, in_front
from gesso.models.layers.layers import einsum_float32
from gesso.models.layers.settings import Logits, Padding, Way
from gesso.models.layers.splash import fused_attention, runs_here
from gesso.models.layers.visibility import Direction, blind_sees, sees
from gesso.partitioning.axes import einsum, shard

# Queries taken together by "blocks". On 2 CPU cores 128 was the fastest of 64, 128 and 256.
BLOCK = 128


def weigh(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visible_BLS: jax.Array,
    blind: jax.Array | None,
    *,
    scale: float,
    logits: Logits,
    bias_NLS: jax.Array | None = None,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q.k * scale + bias) v over the visible keys, the softmax in float32; where none is
    visible, the mean of v over `blind` (bool [B or 1, L, S]; None: over all keys). Returns BLNH."""
    k_BSNH, v_BSNH = for_every_query_head(q_BLNH, k_BSKH, v_BSKH)
    product = einsum_float32 if logits == "float32" else einsum
    logits_BNLS = product("BLNH,BSNH->BNLS", q_BLNH, k_BSNH)
    logits_BNLS = logits_BNLS if scale == 1 else logits_BNLS * scale
    logits_BNLS = logits_BNLS if bias_NLS is None else logits_BNLS + bias_NLS
    # The lowest number, not -inf: a row of -inf has no softmax, and its gradient is NaN.
    lowest = jnp.finfo(logits_BNLS.dtype).min
    unseen = lowest if blind is None else jnp.where(blind, lowest / 2, lowest)[:, None]
    logits_BNLS = jnp.where(visible_BLS[:, None], logits_BNLS, unseen)
    weights_BNLS = jax.nn.softmax(logits_BNLS.astype(jnp.float32), axis=-1).astype(v_BSNH.dtype)
    return einsum("BNLS,BSNH->BLNH", dropout(weights_BNLS, rate, key), v_BSNH)


def for_every_query_head(
    q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Keys and values, BSNH, with a copy for each of the N / K queries that share one
    (https://arxiv.org/abs/2305.13245). The cache keeps K of them, and so do weights and
    gradients: only the product's operand is N wide."""
    shared = q_BLNH.shape[2] // k_BSKH.shape[2]
    if shared == 1:
        return k_BSKH, v_BSKH
    # Neighbours share: query heads 0 .. N/K - 1 read the first key, as published models have it.
    k_BSNH, v_BSNH = (jnp.repeat(x, shared, axis=2) for x in (k_BSKH, v_BSKH))
    return shard(k_BSNH, "BSNH"), shard(v_BSNH, "BSNH")


def dense(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
    padding: Padding,
    direction: Direction = "before",
    prefix: Prefix | None = None,
    **options: Any,
) -> jax.Array:
    """Every query against every key, the unseen ones masked."""
    places = jnp.arange(q_BLNH.shape[1])
    visible_BLS = sees(places, places, segments_BL, segments_BL, window=window, direction=direction)
    blind = blind_sees(places, places, segments_BL, window=window, padding=padding)
    who: dict[str, Any] = {"segments_BL": segments_BL, "window": window}
    y_BLNH = weigh(
        q_BLNH, *read_prefix(prefix, k_BSKH, v_BSKH, visible_BLS, blind, **who), **options
    )
    return checkpoint_name(y_BLNH, "attention")


def blocks(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
    padding: Padding,
    key: jax.Array | None,
    direction: Direction = "before",
    prefix: Prefix | None = None,
    **options: Any,
) -> jax.Array:
    """`BLOCK` queries at a time against the keys that any of them may see: about half of `dense`'s
    work, with a window far less, and in both directions all of it in less memory."""
    whole = direction == "both" or padding == "later"
    length, parts = q_BLNH.shape[1], []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1)
        rows, read = slice(start, stop), slice(first, length if whole else stop)
        queries, keys = jnp.arange(length)[rows], jnp.arange(length)[read]
        segments_BC = None if segments_BL is None else segments_BL[:, rows]
        segments_BS = None if segments_BL is None else segments_BL[:, read]
        visible_BLS = sees(
            queries, keys, segments_BC, segments_BS, window=window, direction=direction
        )
        blind = blind_sees(queries, keys, segments_BS, window=window, padding=padding)
        part_key = None if key is None else jax.random.fold_in(key, start)
        q, k, v = q_BLNH[:, rows], k_BSKH[:, read], v_BSKH[:, read]
        front = prefix and prefix._replace(places_BL=prefix.places_BL[:, rows])
        who: dict[str, Any] = {"segments_BL": segments_BC, "window": window}
        seen = read_prefix(front, k, v, visible_BLS, blind, **who)
        parts.append(weigh(q, *seen, key=part_key, **options))
    y_BLNH = parts[0] if len(parts) == 1 else shard(jnp.concatenate(parts, axis=1), "BLNH")
    return checkpoint_name(y_BLNH, "attention")


def cudnn(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
    scale: float,
    direction: Direction = "before",
    **options: Any,
) -> jax.Array:
    """NVIDIA's fused attention. It keeps its logits in float32 whatever `attention_logits` says.

    Raises ValueError for a float32 model, which it cannot compute.
    """
    if q_BLNH.dtype.itemsize != 2:
        raise ValueError(
            f"attention='cudnn' computes in bfloat16 or float16, and this model in {q_BLNH.dtype};"
            " set precision.compute to bfloat16, or attention to blocks"
        )
    mask_BNLS = None
    if segments_BL is not None and direction == "both":
        places = jnp.arange(q_BLNH.shape[1])
        visible_BLS = sees(
            places, places, segments_BL, segments_BL, window=None, direction=direction
        )
        # Rows of padding alone see themselves: a softmax over nothing is NaN.
        mask_BNLS = (visible_BLS | ~visible_BLS.any(-1, keepdims=True))[:, None]
    elif segments_BL is not None:
        mask_BNLS = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
    y_BLNH = jax.nn.dot_product_attention(
        q_BLNH,
        k_BSKH,
        v_BSKH,
        mask=mask_BNLS,
        scale=scale,
        is_causal=direction == "before",
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    return checkpoint_name(shard(y_BLNH, "BLNH"), "attention")


def splash(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
    scale: float,
    **options: Any,
) -> jax.Array:
    """The fused attention of TPUs (models/layers/splash.py), its logits float32 whatever
    `attention_logits` says. On other devices, and for rows whose length is no multiple of 128, what
    `blocks` gives, which is the same."""
    who: dict[str, Any] = {"segments_BL": segments_BL, "window": window, "scale": scale}
    if not runs_here(q_BLNH.shape[1]):
        return blocks(q_BLNH, k_BSKH, v_BSKH, **who, **options)
    return fused_attention(q_BLNH, *for_every_query_head(q_BLNH, k_BSKH, v_BSKH), **who)


WAYS: dict[Way, Callable[..., jax.Array]] = {
    "dense": dense,
    "blocks": blocks,
    "cudnn": cudnn,
    "splash": splash,
}


def read_prefix(
    prefix: Prefix | None,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visible: jax.Array,
    blind: jax.Array | None,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """What `weigh` reads, virtual tokens in front where there are any; who: as in `in_front`."""
    if prefix is None:
        return k_BSKH, v_BSKH, visible, blind
    return in_front(prefix, k_BSKH, v_BSKH, visible, blind, segments_BL=segments_BL, window=window)
