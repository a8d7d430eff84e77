"""The layers of an encoder-decoder, and what each of its sides is around them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.attention import Attention, Cache, Seen
from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import param, scan, stack
from gesso.models.layers.mlp import MLP
from gesso.models.layers.norms import Norm, make_norm
from gesso.models.layers.relative_bias import RelativeBias
from gesso.models.layers.visibility import Direction, reach, same_segment
from gesso.models.seq2seq.config import Seq2SeqConfig
from gesso.models.trees import Pytree
from gesso.partitioning.axes import shard
from gesso.partitioning.lookup import look_up

Sublayer = Callable[[jax.Array], jax.Array]


class EncoderLayer(nnx.Module):
    """Self-attention and mlp around the residual stream."""

    def __init__(self, config: Seq2SeqConfig, key: jax.Array):
        self.config = config
        attention, mlp = jax.random.split(key)
        self.attention_norm = make_norm(config)
        self.attention = make_attention(config, attention)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config, mlp)

    def __call__(self, x_BLD: jax.Array, seen: Seen, *, key: jax.Array | None) -> jax.Array:
        c, keys = self.config, [None] * 4 if key is None else jax.random.split(key, 4)

        def attend(y_BLD: jax.Array) -> jax.Array:
            return self.attention.read(
                y_BLD, *self.attention.all_keys_values(y_BLD), seen, key=keys[0]
            )

        x_BLD = residual(c, x_BLD, self.attention_norm, attend, keys[1])
        x_BLD = residual(c, x_BLD, self.mlp_norm, lambda y: self.mlp(y, keys[2]), keys[3])
        return shard(x_BLD, "BLD")


class DecoderLayer(nnx.Module):
    """Self-attention, attention to the encoder's output, and mlp around the residual stream."""

    def __init__(self, config: Seq2SeqConfig, key: jax.Array):
        self.config = config
        attention, source, mlp = jax.random.split(key, 3)
        self.attention_norm = make_norm(config)
        self.attention = make_attention(config, attention)
        self.source_norm = make_norm(config)
        self.source_attention = make_attention(config, source)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config, mlp)

    def __call__(
        self,
        x_BLD: jax.Array,
        encoded_BSD: jax.Array,
        seen: Seen,
        source_seen: Seen,
        *,
        key: jax.Array | None,
    ) -> jax.Array:
        keys = [None] * 6 if key is None else jax.random.split(key, 6)

        def attend(y_BLD: jax.Array) -> jax.Array:
            return self.attention.read(
                y_BLD, *self.attention.all_keys_values(y_BLD), seen, key=keys[4]
            )

        def read(y_BLD: jax.Array) -> jax.Array:
            keys_values = self.source_attention.all_keys_values(encoded_BSD)
            return self.source_attention.read(y_BLD, *keys_values, source_seen, key=keys[5])

        return self.combine(x_BLD, attend, read, keys)

    def decode(
        self,
        x_BLD: jax.Array,
        cache: Cache,
        source_kv: tuple[jax.Array, jax.Array],
        seen: Seen,
        source_seen: Seen,
        *,
        layer: jax.Array,
    ) -> tuple[jax.Array, Cache]:
        """The same for L tokens that follow those in the cache, which comes back with theirs.
        source_kv: this layer's keys and values of the source."""
        after: list[Cache] = []

        def attend(y_BLD: jax.Array) -> jax.Array:
            filled = cache.fill(*self.attention.all_keys_values(y_BLD), layer)
            after.append(filled)
            k_BSKH, v_BSKH = filled.k_ZBSKH[layer], filled.v_ZBSKH[layer]
            dtype = y_BLD.dtype
            return self.attention.read(y_BLD, k_BSKH.astype(dtype), v_BSKH.astype(dtype), seen)

        def read(y_BLD: jax.Array) -> jax.Array:
            return self.source_attention.read(y_BLD, *source_kv, source_seen)

        return self.combine(x_BLD, attend, read, [None] * 6), after[0]

    def combine(
        self, x_BLD: jax.Array, attend: Sublayer, read: Sublayer, keys: Pytree
    ) -> jax.Array:
        """The layer's equation, given both kinds of attention as functions of BLD."""
        c = self.config
        x_BLD = residual(c, x_BLD, self.attention_norm, attend, keys[0])
        x_BLD = residual(c, x_BLD, self.source_norm, read, keys[1])
        x_BLD = residual(c, x_BLD, self.mlp_norm, lambda y: self.mlp(y, keys[2]), keys[3])
        return shard(x_BLD, "BLD")


def residual(
    config: Seq2SeqConfig, x_BLD: jax.Array, norm: Norm, sublayer: Sublayer, key: jax.Array | None
) -> jax.Array:
    """A sublayer around which the residual stream goes, normalised before or after."""
    if config.norm == "post":
        return norm(x_BLD + dropout(sublayer(x_BLD), config.residual_dropout, key))
    return x_BLD + dropout(sublayer(norm(x_BLD)), config.residual_dropout, key)


class Side(nnx.Module):
    """Encoder or decoder: positions, layers, and what ends them. The embeddings are not its own."""

    def __init__(self, config: Seq2SeqConfig, key: jax.Array, *, causal: bool):
        self.config, self.causal = config, causal
        sizes = config.sizes
        positions, bias, layers = jax.random.split(key, 3)
        learned = config.position_encoding == "learned"
        std = config.init_factor * config.embed_std
        self.positions = param(positions, "SD", sizes=sizes, std=std) if learned else None
        direction: Direction = "before" if causal else "both"
        bias_std = config.init_factor * config.embed**-0.5
        far = config.relative_distance
        self.relative_bias = (
            RelativeBias(sizes, bias, furthest=far, direction=direction, std=bias_std)
            if config.position_encoding == "relative"
            else None
        )
        count = config.decoder_layers if causal else config.encoder_layers
        make = DecoderLayer if causal else EncoderLayer
        self.layers = stack(lambda k: make(config, k), jax.random.split(layers, count))
        self.norm = make_norm(config) if config.norm == "pre" else None

    def start(
        self, x_BLD: jax.Array, positions_BL: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """What the first layer reads: the embeddings with their positions."""
        c = self.config
        if c.embedding_scale == "sqrt_embed":
            x_BLD = x_BLD * c.embed**0.5
        if self.positions is not None:
            x_BLD = x_BLD + look_up(self.positions[...], "SD", positions_BL)
        elif c.position_encoding == "sinusoidal":
            x_BLD = x_BLD + sinusoid(positions_BL, dims=c.embed).astype(x_BLD.dtype)
        return shard(dropout(x_BLD, c.embedding_dropout, key), "BLD")

    def visible(
        self,
        queries_L: jax.Array,
        keys_S: jax.Array,
        segments_BL: jax.Array,
        segments_BS: jax.Array,
    ) -> Seen:
        """What this side's queries see of its keys; both are places of the row."""
        visible_BLS = same_segment(segments_BL, segments_BS)
        if self.causal:
            visible_BLS = visible_BLS & reach(queries_L, keys_S, window=None)
        bias = self.relative_bias
        return Seen(visible_BLS, None if bias is None else bias(queries_L, keys_S))

    def run(
        self,
        x_BLD: jax.Array,
        one_layer: Pytree,
        keys: tuple[jax.Array, jax.Array] | None,
        output: Callable[[jax.Array], Pytree],
        per_layer: Pytree = None,
    ) -> tuple[jax.Array, Pytree]:
        """(what this side ends with, `output` of every layer). keys: of its layers, of its end.
        per_layer: a tree whose arrays lead with Z, of which one_layer is given the layer's part."""
        c = self.config
        count = c.decoder_layers if self.causal else c.encoder_layers
        layer_keys = None if keys is None else jax.random.split(keys[0], count)
        x_BLD, outputs = scan(
            lambda x_BLD, each, kind: one_layer(each[0], x_BLD, *each[1:]),
            x_BLD,
            (self.layers, layer_keys, *([] if per_layer is None else [per_layer])),
            kinds=(None,),
            remat=c.remat,
            unroll=c.unroll,
            output=output,
        )
        return self.end(x_BLD, None if keys is None else keys[1]), outputs

    def end(self, x_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The final norm and dropout, where there are any."""
        x_BLD = x_BLD if self.norm is None else self.norm(x_BLD)
        return dropout(x_BLD, self.config.final_dropout, key)


def sinusoid(positions_BL: jax.Array, *, dims: int) -> jax.Array:
    """float32 [B, L, D]: dim 2i is sin(position / 10000^(2i / D)), dim 2i + 1 its cosine
    (https://arxiv.org/abs/1706.03762, section 3.5)."""
    frequency = 10000.0 ** (-jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    angle = positions_BL[..., None].astype(jnp.float32) * frequency
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*positions_BL.shape, dims)


def make_attention(config: Seq2SeqConfig, key: jax.Array) -> Attention:
    """Of one layer, its weights drawn by their fan. Without a scale of q.k, queries start as much
    smaller."""
    inner = config.heads * config.head_dim
    std = product_std(config, config.embed, inner)
    unscaled = config.attention_scale == "none"
    return Attention(
        config,
        key,
        std=std,
        out_std=product_std(config, inner, config.embed),
        q_std=std * config.head_dim**-0.5 if unscaled else std,
    )


def make_mlp(config: Seq2SeqConfig, key: jax.Array) -> MLP:
    """Of one layer, its weights drawn by their fan."""
    up, gate, down = jax.random.split(key, 3)
    return MLP(
        config.sizes,
        (up, gate, down),
        activation=config.activation,
        gating=config.gating,
        has_bias="mlp" in config.biases,
        std=product_std(config, config.embed, config.mlp),
        out_std=product_std(config, config.mlp, config.embed),
        rate=config.mlp_dropout,
    )


def product_std(config: Seq2SeqConfig, fan_in: int, fan_out: int) -> float:
    """The standard deviation of a product's weights before training."""
    fan = fan_in if config.init == "fan_in" else (fan_in + fan_out) / 2
    return config.init_factor * fan**-0.5
