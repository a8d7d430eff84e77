"""Self-attention and attention to a source: one module for every family."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gesso.models.layers.hooks import Prefix
from gesso.models.layers.kernels import WAYS, read_prefix, weigh
from gesso.models.layers.layers import add_bias, constant, param
from gesso.models.layers.rotary import Angles, rotate
from gesso.models.layers.settings import AttentionKind, AttentionSettings
from gesso.models.layers.visibility import blind_sees, sees
from gesso.partitioning.axes import einsum, shard

# A decoder's layers, or an encoder's, whose tokens see the ones after them too.
Kind = AttentionKind | Literal["bidirectional"]
KeysValues = tuple[jax.Array, jax.Array]


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

    k_ZBSKH: jax.Array
    v_ZBSKH: jax.Array
    segments_BS: jax.Array
    length: jax.Array

    def fill(self, k_BLKH: jax.Array, v_BLKH: jax.Array, layer: jax.Array) -> "Cache":
        """With a layer's keys and values of L further tokens, behind those that are there."""
        place = (layer, 0, self.length, 0, 0)
        return self._replace(
            k_ZBSKH=_write(self.k_ZBSKH, k_BLKH[None], place),
            v_ZBSKH=_write(self.v_ZBSKH, v_BLKH[None], place),
        )


class SourceCache(NamedTuple):
    """Keys and values of the source for every decoder layer, and the source's segments."""

    k_ZBSKH: jax.Array
    v_ZBSKH: jax.Array
    segments_BS: jax.Array


class Seq2SeqCache(NamedTuple):
    """What the decoder has written so far, and what the encoder has read (computed once)."""

    written: Cache
    source: SourceCache


class Seen(NamedTuple):
    """What queries see of keys, bool, and what is added to q.k, float32 (None: nothing)."""

    visible_BLS: jax.Array
    bias_NLS: jax.Array | None = None


class Attention(nnx.Module):
    """Multi-head attention (https://arxiv.org/abs/1706.03762, section 3.2.2), with the published
    families' variations of scale, window, biases, rotary positions and shared keys
    (https://arxiv.org/abs/2305.13245).

    std, out_std: standard deviations of q, k, v and of out before training; q_std: of q, where it
    is another. draw: what makes a weight (models.layers.layers: param or truncated).
    """

    def __init__(
        self,
        config: AttentionSettings,
        key: jax.Array,
        *,
        std: float,
        out_std: float,
        q_std: float | None = None,
        draw: Callable = param,
    ):
        self.config = config
        sizes, shared = config.sizes, config.key_letter
        q, k, v, out = jax.random.split(key, 4)
        self.q = draw(q, "DNH", sizes=sizes, std=std if q_std is None else q_std)
        self.k = draw(k, f"D{shared}H", sizes=sizes, std=std)
        self.v = draw(v, f"D{shared}H", sizes=sizes, std=std)
        self.out = draw(out, "NHD", sizes=sizes, std=out_std)
        has_qkv, has_out = "qkv" in config.biases, "attention_out" in config.biases
        self.q_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.k_bias = constant(0.0, f"{shared}H", sizes=sizes) if has_qkv else None
        self.v_bias = constant(0.0, f"{shared}H", sizes=sizes) if has_qkv else None
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
        q_BLNH, k_BLKH, v_BLKH = self.project(x_BLD, rows, layer=layer)
        # A query reads keys of the whole row: where a mesh splits rows (L), keys are gathered (S).
        k_BSKH, v_BSKH = shard(k_BLKH, "BSKH"), shard(v_BLKH, "BSKH")
        attend = WAYS[self.config.attention]
        y_BLNH = attend(
            q_BLNH,
            k_BSKH,
            v_BSKH,
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
        q_BLNH, k_BLKH, v_BLKH = self.project(x_BLD, rows, layer=layer)
        cache = cache.fill(k_BLKH, v_BLKH, layer)
        queries_L = cache.length + jnp.arange(x_BLD.shape[1])
        keys_S = jnp.arange(cache.segments_BS.shape[1])
        window = self.config.window if kind == "local" else None
        visible_BLS = sees(queries_L, keys_S, rows.segments_BL, cache.segments_BS, window=window)
        blind = blind_sees(
            queries_L, keys_S, cache.segments_BS, window=window, padding=self.config.padding
        )
        dtype = q_BLNH.dtype
        read = (cache.k_ZBSKH[layer].astype(dtype), cache.v_ZBSKH[layer].astype(dtype))
        read = read_prefix(
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

    def read(
        self,
        x_BLD: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        seen: Seen,
        *,
        layer: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """BLD: what the tokens read of given keys and values, their own or a source's. A query that
        sees no key (padding) averages all values, which no document reads."""
        y_BLNH = weigh(
            self.queries(x_BLD, layer=layer),
            k_BSKH,
            v_BSKH,
            seen.visible_BLS,
            None,
            bias_NLS=seen.bias_NLS,
            scale=self.scale,
            logits=self.config.attention_logits,
            rate=self.config.attention_dropout,
            key=key,
        )
        return self.project_out(checkpoint_name(y_BLNH, "attention"))

    @property
    def scale(self) -> float:
        """What q.k is multiplied by in every layer alike."""
        by_head_dim = self.config.attention_scale in ("head_dim", "head_dim_and_layer")
        return self.config.head_dim**-0.5 if by_head_dim else 1.0

    def project(
        self, x_BLD: jax.Array, rows: Rows, *, layer: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (BLNH), keys and values (BLKH), turned by their positions."""
        q_BLNH = self.queries(x_BLD, layer=layer)
        k_BLKH, v_BLKH = self.keys_values(x_BLD)
        if rows.angles is not None:
            q_BLNH = rotate(q_BLNH, rows.angles, rotation=self.config.rotation)
            k_BLKH = rotate(k_BLKH, rows.angles, rotation=self.config.rotation)
        return q_BLNH, k_BLKH, v_BLKH

    def queries(self, x_BLD: jax.Array, *, layer: jax.Array | None) -> jax.Array:
        """BLNH, not turned. layer: its number from 0, which two of the scales need."""
        q_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.q), self.q_bias, "NH")
        q_BLNH = checkpoint_name(q_BLNH, "qkv")
        if self.config.attention_scale in ("layer", "head_dim_and_layer"):
            assert layer is not None, "a scale by the layer's number"
            # Queries, not logits: a deep layer's logits would overflow 16 bits before the division.
            q_BLNH = (q_BLNH / (layer + 1)).astype(x_BLD.dtype)
        return q_BLNH

    def keys_values(self, x_BLD: jax.Array) -> KeysValues:
        """BLKH each, not turned."""
        shared = self.config.key_letter
        product, bias = f"BLD,D{shared}H->BL{shared}H", f"{shared}H"
        k_BLKH = add_bias(einsum(product, x_BLD, self.k), self.k_bias, bias)
        v_BLKH = add_bias(einsum(product, x_BLD, self.v), self.v_bias, bias)
        return checkpoint_name(k_BLKH, "qkv"), checkpoint_name(v_BLKH, "qkv")

    def all_keys_values(self, x_BLD: jax.Array) -> KeysValues:
        """The same for whoever reads the whole row: BSKH, every place on every device."""
        k_BLKH, v_BLKH = self.keys_values(x_BLD)
        return shard(k_BLKH, "BSKH"), shard(v_BLKH, "BSKH")

    def project_out(self, y_BLNH: jax.Array) -> jax.Array:
        return add_bias(einsum("BLNH,NHD->BLD", y_BLNH, self.out), self.out_bias, "D")


def _write(cache: jax.Array, new: jax.Array, place: tuple[jax.Array | int, ...]) -> jax.Array:
    return jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), place)
