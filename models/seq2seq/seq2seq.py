"""The encoder-decoder: a source is read whole, a target written token by token."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gesso.models.layers.attention import Cache, Seen, Seq2SeqCache, SourceCache
from gesso.models.layers.hooks import apply_focus
from gesso.models.layers.layers import constant, einsum_float32, embed_tokens, param, scan
from gesso.models.layers.visibility import same_segment
from gesso.models.network import Network
from gesso.models.seq2seq.config import Seq2SeqConfig
from gesso.models.seq2seq.layers import Side
from gesso.models.trees import Leaf, Pytree
from gesso.partitioning.axes import shard

Batch = Mapping[str, jax.Array]


class Seq2Seq(Network):
    """The Transformer (https://arxiv.org/abs/1706.03762), T5 (https://arxiv.org/abs/1910.10683) and
    T5 1.1 (https://arxiv.org/abs/2002.05202), by the fields of their config."""

    writes = True
    has_encoder = True

    def __init__(self, config: Seq2SeqConfig, key: jax.Array):
        self.config = config
        sizes, std = config.sizes, config.init_factor * config.embed_std
        embed, source, encoder, decoder, head = jax.random.split(key, 5)
        separate = config.embedding == "separate"
        self.embed = param(embed, "VD", sizes=sizes, std=std)
        self.source_embed = param(source, "VD", sizes=sizes, std=std) if separate else None
        self.encoder = Side(config, encoder, causal=False)
        self.decoder = Side(config, decoder, causal=True)
        untied = config.head == "untied"
        head_std = config.init_factor * config.embed**-0.5
        self.head_table = param(head, "VD", sizes=sizes, std=head_std) if untied else None
        self.head_bias = constant(0.0, "V", sizes=sizes) if "head" in config.biases else None

    @staticmethod
    def inputs(config: Seq2SeqConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        positions = config.positions or None
        target = {"tokens": config.vocab, "positions": positions, "segments": None}
        source = {"source": config.vocab, "source_positions": positions, "source_segments": None}
        return target | source

    def outputs(self, batch: Batch, key: jax.Array | None, *, hidden: bool) -> dict[str, jax.Array]:
        """{"logits": f32[B, L, V], "hidden"?: the decoder's residual stream [Z + 1, B, L, D],
        "encoder_hidden"?: the encoder's, [Z + 1, B, S, D]}: the embeddings, then each layer's
        output, the last of them as its side ends."""
        if not hidden:
            return {"logits": self.logits(self.features(batch, key))}
        encoder_keys, decoder_keys = _keys(key)
        source_BSD, source_layers, encoded_BSD = self._encode(batch, encoder_keys, lambda x: x)
        start_BLD, layers, x_BLD = self._decode(batch, encoded_BSD, decoder_keys, lambda x: x)
        return {
            "logits": self.logits(self._scale(x_BLD)),
            "hidden": jnp.concatenate([start_BLD[None], layers[:-1], x_BLD[None]]),
            "encoder_hidden": jnp.concatenate(
                [source_BSD[None], source_layers[:-1], encoded_BSD[None]]
            ),
        }

    def features(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """What the head reads, BLD: the decoder's end, scaled. No key, no dropout."""
        encoder_keys, decoder_keys = _keys(key)
        *_, encoded_BSD = self._encode(batch, encoder_keys, lambda x: None)
        *_, x_BLD = self._decode(batch, encoded_BSD, decoder_keys, lambda x: None)
        return self._scale(x_BLD)

    def head(self) -> tuple[jax.Array, jax.Array | None]:
        """The table (VD) and the bias (V), if any, that turn features into logits."""
        table = self.embed if self.head_table is None else self.head_table
        return table[...], None if self.head_bias is None else self.head_bias[...]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """float32 BLV of features."""
        table_VD, bias_V = self.head()
        logits_BLV = einsum_float32("BLD,VD->BLV", x_BLD, table_VD)
        return logits_BLV if bias_V is None else logits_BLV + shard(bias_V, "V")

    def encode(self, batch: Batch, length: int) -> Seq2SeqCache:
        """The cache of rows that have read their source and written nothing, with room for `length`
        tokens. Reads "source" and, where given, "source_segments" and "source_positions"."""
        c, source_BS = self.config, batch["source"]
        *_, encoded_BSD = self._encode(batch, None, lambda x: None)

        def one_layer(_: None, layer: Pytree) -> tuple[None, Pytree]:
            return None, layer.source_attention.all_keys_values(encoded_BSD)

        _, (k_ZBSKH, v_ZBSKH) = jax.lax.scan(one_layer, None, self.decoder.layers)
        rows = source_BS.shape[0]
        shape = (c.decoder_layers, rows, length, c.heads, c.head_dim)
        written = Cache(
            k_ZBSKH=jnp.zeros(shape, k_ZBSKH.dtype),
            v_ZBSKH=jnp.zeros(shape, k_ZBSKH.dtype),
            segments_BS=jnp.zeros((rows, length), jnp.int32),
            length=jnp.zeros((), jnp.int32),
        )
        source = SourceCache(k_ZBSKH, v_ZBSKH, _segments(batch, "source"))
        return Seq2SeqCache(written, source)

    def decode(self, cache: Seq2SeqCache, batch: Batch) -> tuple[jax.Array, Seq2SeqCache]:
        """Features (BLD) of L tokens that follow the `cache.written.length` before them, and the
        cache with them in it."""
        c, tokens_BL, (written, source) = self.config, batch["tokens"], cache
        room = written.segments_BS.shape[1]
        if (length := tokens_BL.shape[1]) > room:
            raise ValueError(f"{length} tokens do not fit a cache of {room}")
        places_L = written.length + jnp.arange(length)
        segments_BL = _segments(batch, "tokens")
        positions_BL = batch.get("positions", jnp.broadcast_to(places_L, tokens_BL.shape))
        written = written._replace(
            segments_BS=jax.lax.dynamic_update_slice(
                written.segments_BS, segments_BL, (0, written.length)
            )
        )
        seen = self.decoder.visible(places_L, jnp.arange(room), segments_BL, written.segments_BS)
        source_seen = Seen(same_segment(segments_BL, source.segments_BS), None)

        def one_layer(carry: Pytree, each: Pytree, kind: None) -> Pytree:
            layer, source_kv, number = each
            return layer.decode(*carry, source_kv, seen, source_seen, layer=number)

        words_BLD = embed_tokens(self.embed, tokens_BL, segments_BL)
        x_BLD = self.decoder.start(words_BLD, positions_BL)
        kv = (source.k_ZBSKH, source.v_ZBSKH)
        (x_BLD, written), _ = scan(
            one_layer,
            (x_BLD, written),
            (self.decoder.layers, kv, jnp.arange(c.decoder_layers)),
            kinds=(None,),
            remat="none",
            unroll=c.unroll,
            output=lambda carry: None,
        )
        written = written._replace(length=written.length + length)
        return self._scale(self.decoder.end(x_BLD)), Seq2SeqCache(written, source)

    def _encode(
        self, batch: Batch, keys: Pytree, output: Callable[[jax.Array], Pytree]
    ) -> tuple[jax.Array, Pytree, jax.Array]:
        """(embeddings, `output` of each layer, the encoder's end); keys: of the embeddings, the
        layers and the end."""
        table = self.embed if self.source_embed is None else self.source_embed
        segments_BL = _segments(batch, "source")
        x_BLD = self._look_up(
            table, self.encoder, batch["source"], batch.get("source_positions"), segments_BL, keys
        )
        places_L = jnp.arange(x_BLD.shape[1])
        seen = self.encoder.visible(places_L, places_L, segments_BL, segments_BL)

        focus, classes_BL = self.hooks.focus, None
        if focus is not None:
            classes_BL = focus.classes(batch["source"], segments_BL)
            # The published code scales the shift as it does embeddings.
            scaled = self.config.embed**0.5 if self.config.embedding_scale == "sqrt_embed" else 1
            focus = (focus.scale_ZQD, focus.shift_ZQD * scaled)

        def one_layer(
            layer: Pytree, x_BLD: jax.Array, key: jax.Array | None, own: Pytree = None
        ) -> jax.Array:
            if own is not None:
                x_BLD = apply_focus(x_BLD, own, classes_BL)
            return layer(x_BLD, seen, key=key)

        end_BLD, outputs = self.encoder.run(
            x_BLD, one_layer, keys and keys[1:], output, per_layer=focus
        )
        return x_BLD, outputs, end_BLD

    def _decode(
        self,
        batch: Batch,
        encoded_BSD: jax.Array,
        keys: Pytree,
        output: Callable[[jax.Array], Pytree],
    ) -> tuple[jax.Array, Pytree, jax.Array]:
        """The same of the decoder, given the encoder's end."""
        segments_BL = _segments(batch, "tokens")
        x_BLD = self._look_up(
            self.embed, self.decoder, batch["tokens"], batch.get("positions"), segments_BL, keys
        )
        places_L = jnp.arange(x_BLD.shape[1])
        seen = self.decoder.visible(places_L, places_L, segments_BL, segments_BL)
        source_seen = Seen(same_segment(segments_BL, _segments(batch, "source")), None)

        def one_layer(layer: Pytree, x_BLD: jax.Array, key: jax.Array | None) -> jax.Array:
            return layer(x_BLD, encoded_BSD, seen, source_seen, key=key)

        end_BLD, outputs = self.decoder.run(x_BLD, one_layer, keys and keys[1:], output)
        return x_BLD, outputs, end_BLD

    def _look_up(
        self,
        table: Leaf,
        side: Side,
        tokens_BL: jax.Array,
        positions_BL: jax.Array | None,
        segments_BL: jax.Array,
        keys: Pytree,
    ) -> jax.Array:
        length, longest = tokens_BL.shape[1], self.config.longest
        if longest is not None and length > longest:
            raise ValueError(f"rows of {length} tokens exceed the model's {longest} positions")
        if positions_BL is None:
            positions_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
        x_BLD = embed_tokens(table, tokens_BL, segments_BL)
        return side.start(x_BLD, shard(positions_BL, "BL"), keys and keys[0])

    def _scale(self, x_BLD: jax.Array) -> jax.Array:
        return x_BLD * self.config.embed**-0.5 if self.config.head_scale != "none" else x_BLD


def _segments(batch: Batch, side: str) -> jax.Array:
    """A side's segments; one document per row, numbered 1, where there are none."""
    name = {"source": "source_segments", "tokens": "segments"}[side]
    return batch[name] if name in batch else jnp.ones_like(batch[side])


def _keys(key: jax.Array | None) -> tuple[Pytree, Pytree]:
    """Of each side: the keys of its embeddings, its layers and its end."""
    if key is None:
        return None, None
    keys = jax.random.split(key, 6)
    return tuple(keys[:3]), tuple(keys[3:])
