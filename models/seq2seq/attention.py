"""Attention of an encoder-decoder: queries of one side, keys of the same or the other."""

from typing import NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gesso.models.layers.attention import weigh
from gesso.models.layers.layers import add_bias, constant, param
from gesso.models.seq2seq.config import Seq2SeqConfig
from gesso.partitioning.axes import einsum, shard


class Seen(NamedTuple):
    """What queries see of keys, bool, and what is added to q.k, float32 (None: nothing)."""

    visible_BLS: jax.Array
    bias_NLS: jax.Array | None


class Attention(nnx.Module):
    """Multi-head attention (https://arxiv.org/abs/1706.03762, section 3.2.2)."""

    def __init__(self, config: Seq2SeqConfig, key: jax.Array):
        self.config = config
        sizes, inner = config.sizes, config.heads * config.head_dim
        std = product_std(config, config.embed, inner)
        out_std = product_std(config, inner, config.embed)
        unscaled = config.attention_scale == "none"
        q, k, v, out = jax.random.split(key, 4)
        q_std = std * config.head_dim**-0.5 if unscaled else std
        self.q = param(q, "DNH", sizes=sizes, std=q_std)
        self.k = param(k, "DNH", sizes=sizes, std=std)
        self.v = param(v, "DNH", sizes=sizes, std=std)
        self.out = param(out, "NHD", sizes=sizes, std=out_std)
        has_qkv, has_out = "qkv" in config.biases, "attention_out" in config.biases
        self.q_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.k_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.v_bias = constant(0.0, "NH", sizes=sizes) if has_qkv else None
        self.out_bias = constant(0.0, "D", sizes=sizes) if has_out else None

    def keys_values(self, x_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values (BSNH) of what is attended to: every place is on every device."""
        k_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.k), self.k_bias, "NH")
        v_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.v), self.v_bias, "NH")
        k_BLNH, v_BLNH = checkpoint_name(k_BLNH, "qkv"), checkpoint_name(v_BLNH, "qkv")
        return shard(k_BLNH, "BSNH"), shard(v_BLNH, "BSNH")

    def __call__(
        self,
        x_BLD: jax.Array,
        k_BSNH: jax.Array,
        v_BSNH: jax.Array,
        seen: Seen,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """BLD. A query that sees no key (padding) averages all values, which no document reads."""
        q_BLNH = add_bias(einsum("BLD,DNH->BLNH", x_BLD, self.q), self.q_bias, "NH")
        y_BLNH = weigh(
            checkpoint_name(q_BLNH, "qkv"),
            k_BSNH,
            v_BSNH,
            seen.visible_BLS,
            None,
            bias_NLS=seen.bias_NLS,
            scale=self.config.head_dim**-0.5 if self.config.attention_scale == "head_dim" else 1.0,
            logits="float32",
            rate=self.config.attention_dropout,
            key=key,
        )
        y_BLNH = checkpoint_name(y_BLNH, "attention")
        return add_bias(einsum("BLNH,NHD->BLD", y_BLNH, self.out), self.out_bias, "D")


def same_segment(segments_BL: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """bool [B, L, S]: keys of the query's own segment; nobody sees padding (0)."""
    same_BLS = segments_BL[:, :, None] == segments_BS[:, None, :]
    return same_BLS & (segments_BS != 0)[:, None, :]


def product_std(config: Seq2SeqConfig, fan_in: int, fan_out: int) -> float:
    """The standard deviation of a product's weights before training."""
    fan = fan_in if config.init == "fan_in" else (fan_in + fan_out) / 2
    return config.init_factor * fan**-0.5
