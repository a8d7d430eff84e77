"""Self-attention: who sees whom, three ways to compute it, and the module around them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gesso.models.gpt.config import AttentionKind, GPTConfig, Padding
from gesso.models.layers.dropout import dropout
from gesso.models.layers.hooks import Prefix, in_front
from gesso.models.layers.layers import add_bias, constant, einsum_float32, param
from gesso.models.layers.rotary import Angles, rotate
from gesso.models.layers.splash import fused, runs_here
from gesso.partitioning.axes import einsum, shard

# Queries taken together by "blocks". On 2 CPU cores 128 was the fastest of 64, 128 and 256.
BLOCK = 128
Direction = Literal["before", "both"]
# A decoder's layers, or an encoder's, whose tokens see the ones after them too.
Kind = AttentionKind | Literal["bidirectional"]


class Rows(NamedTuple):
    """What attention has to know about the rows of a batch.

    segments_BL: i32, which document a token belongs to (0: padding); None: one document per row.
    angles: rotary angles of the positions, or None. prefix: of virtual tokens in front of every
    document, or None.
    """

    segments_BL: jax.Array | None
    angles: Angles | None
    prefix: Prefix | None = None


class Cache(NamedTuple):
    """Keys and values of every layer so far. `length` (i32[]) places of S are filled."""

    k_ZBSNH: jax.Array
    v_ZBSNH: jax.Array
    segments_BS: jax.Array
    length: jax.Array


class Attention(nnx.Module):
    """Multi-head attention (https://arxiv.org/abs/1706.03762), causal unless its kind is
    bidirectional, with the GPT family's published variations of scale, window, biases and rotary
    positions. draw: what makes a weight (models.layers.layers: param or truncated)."""

    def __init__(
        self, config: GPTConfig, key: jax.Array, *, out_std: float, draw: Callable = param
    ):
        self.config = config
        sizes, std = config.sizes, config.hidden_std
        q, k, v, out = jax.random.split(key, 4)
        self.q = draw(q, "DNH", sizes=sizes, std=std)
        self.k = draw(k, "DNH", sizes=sizes, std=std)
        self.v = draw(v, "DNH", sizes=sizes, std=std)
        self.out = draw(out, "NHD", sizes=sizes, std=out_std)
        has_qkv, has_out = "qkv" in config.biases, "attention_out" in config.biases
        self.q_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.k_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.v_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.out_bias = constant(0.0, "D", sizes=sizes) if has_out else None

    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        *,
        kind: Kind,
        layer: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """`layer`: this layer's number from 0. Returns BLD."""
        q_BLNH, k_BLNH, v_BLNH = self.project(x_BLD, rows, layer=layer)
        k_BSNH, v_BSNH = shard(k_BLNH, "BSNH"), shard(v_BLNH, "BSNH")
        attend = _WAYS[self.config.attention]
        y_BLNH = attend(
            q_BLNH,
            k_BSNH,
            v_BSNH,
            segments_BL=rows.segments_BL,
            window=self.config.window if kind == "local" else None,
            direction="both" if kind == "bidirectional" else "before",
            padding=self.config.padding,
            scale=self.scale,
            logits=self.config.attention_logits,
            rate=self.config.attention_dropout,
            key=key,
            **({} if rows.prefix is None else {"prefix": rows.prefix}),
        )
        return self.project_out(y_BLNH)

    def decode(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        cache: Cache,
        *,
        kind: Kind,
        layer: jax.Array,
    ) -> tuple[jax.Array, Cache]:
        """Attention of L further tokens to the `cache.length` tokens before them and themselves.
        `cache.segments_BS` already holds theirs."""
        q_BLNH, k_BLNH, v_BLNH = self.project(x_BLD, rows, layer=layer)
        place = (layer, 0, cache.length, 0, 0)
        cache = cache._replace(
            k_ZBSNH=_write(cache.k_ZBSNH, k_BLNH[None], place),
            v_ZBSNH=_write(cache.v_ZBSNH, v_BLNH[None], place),
        )
        queries_L = cache.length + jnp.arange(x_BLD.shape[1])
        keys_S = jnp.arange(cache.segments_BS.shape[1])
        window = self.config.window if kind == "local" else None
        visible_BLS = sees(queries_L, keys_S, rows.segments_BL, cache.segments_BS, window=window)
        blind = blind_sees(
            queries_L, keys_S, cache.segments_BS, window=window, padding=self.config.padding
        )
        dtype = q_BLNH.dtype
        read = (cache.k_ZBSNH[layer].astype(dtype), cache.v_ZBSNH[layer].astype(dtype))
        read = _read(
            rows.prefix,
            *read,
            visible_BLS,
            blind,
            segments_BL=rows.segments_BL,
            window=window,
        )
        y_BLNH = weigh(
            q_BLNH,
            *read,
            scale=self.scale,
            logits=self.config.attention_logits,
        )
        return self.project_out(y_BLNH), cache

    @property
    def scale(self) -> float:
        """What q.k is multiplied by in every layer alike."""
        by_head_dim = self.config.attention_scale in ("head_dim", "head_dim_and_layer")
        return self.config.head_dim**-0.5 if by_head_dim else 1.0

    def project(
        self, x_BLD: jax.Array, rows: Rows, *, layer: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values (BLNH), turned by their positions."""
        q_BLNH = self.queries(x_BLD, layer=layer)
        k_BLNH, v_BLNH = self.keys_values(x_BLD)
        if rows.angles is not None:
            q_BLNH = rotate(q_BLNH, rows.angles, rotation=self.config.rotation)
            k_BLNH = rotate(k_BLNH, rows.angles, rotation=self.config.rotation)
        return q_BLNH, k_BLNH, v_BLNH

    def queries(self, x_BLD: jax.Array, *, layer: jax.Array) -> jax.Array:
        """BLNH, not turned."""
        q_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.q), self.q_bias, "NH")
        q_BLNH = checkpoint_name(q_BLNH, "qkv")
        if self.config.attention_scale in ("layer", "head_dim_and_layer"):
            q_BLNH = (q_BLNH / (layer + 1)).astype(x_BLD.dtype)
        return q_BLNH

    def keys_values(self, x_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """BLNH each, not turned."""
        k_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.k), self.k_bias, "NH")
        v_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.v), self.v_bias, "NH")
        return checkpoint_name(k_BLNH, "qkv"), checkpoint_name(v_BLNH, "qkv")

    def project_out(self, y_BLNH: jax.Array) -> jax.Array:
        return add_bias(einsum("BLNH,NHD->BLD", y_BLNH, self.out), self.out_bias, "D")


def sees(
    queries_L: Any,
    keys_S: Any,
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
    queries_L: Any,
    keys_S: Any,
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


def reach(queries_L: Any, keys_S: Any, *, window: int | None) -> jax.Array:
    """bool [1, L, S]: the keys at or before each query, at most `window` of them."""
    distance_LS = queries_L[:, None] - keys_S[None, :]
    within_LS = distance_LS >= 0
    return (within_LS if window is None else within_LS & (distance_LS < window))[None]


def weigh(
    q_BLNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    visible_BLS: jax.Array,
    blind: jax.Array | None,
    *,
    scale: float,
    logits: Literal["compute", "float32"],
    bias_NLS: jax.Array | None = None,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q.k * scale + bias) v over the visible keys, the softmax in float32; where none is
    visible, the mean of v over `blind` (bool [B or 1, L, S]; None: over all keys). Returns BLNH."""
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


def dense(
    q_BLNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
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
    y_BLNH = weigh(q_BLNH, *_read(prefix, k_BSNH, v_BSNH, visible_BLS, blind, **who), **options)
    return checkpoint_name(y_BLNH, "attention")


def blocks(
    q_BLNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
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
        q, k, v = q_BLNH[:, rows], k_BSNH[:, read], v_BSNH[:, read]
        front = prefix and prefix._replace(places_BL=prefix.places_BL[:, rows])
        who: dict[str, Any] = {"segments_BL": segments_BC, "window": window}
        seen = _read(front, k, v, visible_BLS, blind, **who)
        parts.append(weigh(q, *seen, key=part_key, **options))
    y_BLNH = parts[0] if len(parts) == 1 else shard(jnp.concatenate(parts, axis=1), "BLNH")
    return checkpoint_name(y_BLNH, "attention")


def cudnn(
    q_BLNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
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
        # Rows of padding alone see themselves: a softmax over nothing is no number.
        mask_BNLS = (visible_BLS | ~visible_BLS.any(-1, keepdims=True))[:, None]
    elif segments_BL is not None:
        mask_BNLS = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
    y_BLNH = jax.nn.dot_product_attention(
        q_BLNH,
        k_BSNH,
        v_BSNH,
        mask=mask_BNLS,
        scale=scale,
        is_causal=direction == "before",
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    return checkpoint_name(shard(y_BLNH, "BLNH"), "attention")


def splash(
    q_BLNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
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
        return blocks(q_BLNH, k_BSNH, v_BSNH, **who, **options)
    return fused(q_BLNH, k_BSNH, v_BSNH, **who)


_WAYS = {"dense": dense, "blocks": blocks, "cudnn": cudnn, "splash": splash}


def _read(
    prefix: Prefix | None, k_BSNH: Any, v_BSNH: Any, visible: Any, blind: Any, **who: Any
) -> tuple[Any, Any, Any, Any]:
    """What `weigh` reads, virtual tokens in front where there are any; who: as in `in_front`."""
    if prefix is None:
        return k_BSNH, v_BSNH, visible, blind
    return in_front(prefix, k_BSNH, v_BSNH, visible, blind, **who)


def _write(cache: jax.Array, new: jax.Array, place: tuple[Any, ...]) -> jax.Array:
    return jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), place)
