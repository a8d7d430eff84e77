"""An encoder and a decoder of other families, joined by cross-attention."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.bert.bert import BERT
from gesso.models.bert.config import BERTConfig
from gesso.models.encoder_decoder.config import EncoderDecoderConfig
from gesso.models.gpt.gpt import GPT
from gesso.models.layers.attention import (
    Attention,
    KeysValues,
    Kind,
    Seen,
    Seq2SeqCache,
    SourceCache,
)
from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import (
    add_bias,
    constant,
    einsum_float32,
    param,
    stack,
    truncated_param,
)
from gesso.models.layers.norms import make_norm
from gesso.models.layers.stack import Reading, empty_cache, follow, run
from gesso.models.layers.visibility import same_segment
from gesso.models.network import Network
from gesso.models.trees import Pytree
from gesso.partitioning.axes import einsum, shard

Batch = Mapping[str, jax.Array]


class CrossAttention(nnx.Module):
    """One decoder layer's attention to the source, around the residual stream. Its norm stands
    where the decoder's others do."""

    def __init__(self, config: EncoderDecoderConfig, key: jax.Array):
        self.config, c = config, config.blocks
        self.attention = Attention(
            c, key, std=c.hidden_std, out_std=c.residual_std, draw=_draw(config)
        )
        self.norm = make_norm(c)

    def keys_values(self, encoded_BSD: jax.Array) -> KeysValues:
        """Of what the encoder ended with: BSKH, every place on every device."""
        return self.attention.all_keys_values(encoded_BSD)

    def __call__(
        self,
        x_BLD: jax.Array,
        source: KeysValues,
        visible_BLS: jax.Array,
        *,
        layer: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """BLD. layer: the decoder layer's number from 0."""
        c, seen = self.config.blocks, Seen(visible_BLS)
        keys = (None, None) if key is None else jax.random.split(key)

        def read(x_BLD: jax.Array) -> jax.Array:
            y_BLD = self.attention.read(x_BLD, *source, seen, layer=layer, key=keys[0])
            return dropout(y_BLD, c.residual_dropout, keys[1])

        if c.norm == "post":
            return self.norm(x_BLD + read(x_BLD))
        return shard(x_BLD + read(self.norm(x_BLD)), "BLD")


class Projection(nnx.Module):
    """The encoder's features in the decoder's width (E: the encoder's)."""

    def __init__(self, config: EncoderDecoderConfig, key: jax.Array):
        sizes = config.blocks.sizes | {"E": config.encoder.embed}
        self.weight = _draw(config)(key, "ED", sizes=sizes, std=config.blocks.init_std)
        self.bias = constant(0.0, "D", sizes=sizes)

    def __call__(self, x_BSE: jax.Array) -> jax.Array:
        return add_bias(einsum("BSE,ED->BSD", x_BSE, self.weight), self.bias, "D")


class EncoderDecoder(Network):
    """BERT2BERT and its relatives (https://arxiv.org/abs/1907.12461).

    `encoder` and `decoder` are those families' own parameters. A token reads the places of the
    source that have its segment, as in attention.
    """

    writes = True
    has_encoder = True

    def __init__(self, config: EncoderDecoderConfig, key: jax.Array):
        self.config = config
        encoder, decoder, source, projection = jax.random.split(key, 4)
        self.encoder = BERT(config.encoder, encoder)
        self.decoder = None if config.tie != "none" else _decoder(config.decoder, decoder)
        self.source = stack(
            lambda k: CrossAttention(config, k), jax.random.split(source, config.decoder.layers)
        )
        widths_differ = config.encoder.embed != config.decoder.embed
        self.projection = Projection(config, projection) if widths_differ else None

    @staticmethod
    def inputs(config: EncoderDecoderConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        source, target = config.encoder, config.decoder
        return {
            "tokens": target.vocab,
            "positions": target.longest,
            "segments": None,
            "source": source.vocab,
            "source_positions": source.longest,
            "source_segments": None,
        }

    def outputs(self, batch: Batch, key: jax.Array | None, *, hidden: bool) -> dict[str, jax.Array]:
        """{"logits": f32[B, L, V], "hidden"?: the decoder's residual stream [Z + 1, B, L, D],
        "encoder_hidden"?: the encoder's, [Z + 1, B, S, D]}, each as its family has it alone."""
        if not hidden:
            return {"logits": self.logits(self.features(batch, key))}
        source_key, target_key = (None, None) if key is None else jax.random.split(key)
        read = self.encoder.hidden(_source(batch), source_key)
        x_BLD, (first_BLD, layers_ZBLD) = self._decode(
            batch, read[-1], target_key, lambda x_BLD: x_BLD
        )
        last_BLD = self._normalize(x_BLD)
        return {
            "logits": self.logits(self._end(x_BLD)),
            "hidden": jnp.concatenate([first_BLD[None], layers_ZBLD[:-1], last_BLD[None]]),
            "encoder_hidden": read,
        }

    def features(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """What the head reads, BLD. No key, no dropout."""
        source_key, target_key = (None, None) if key is None else jax.random.split(key)
        read = self.encoder.features(_source(batch), source_key)
        return self._end(self._decode(batch, read, target_key, lambda x_BLD: None)[0])

    def head(self) -> tuple[jax.Array, jax.Array | None]:
        """The table (VD) and the bias (V), if any, that turn features into logits."""
        return self._writer.head()

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """float32 BLV of features."""
        table_VD, bias_V = self.head()
        logits_BLV = einsum_float32("BLD,VD->BLV", x_BLD, table_VD)
        return logits_BLV if bias_V is None else logits_BLV + shard(bias_V, "V")

    def encode(self, batch: Batch, length: int) -> Seq2SeqCache:
        """The cache of rows that have read their source and written nothing, with room for `length`
        tokens. Reads "source" and, where given, "source_segments" and "source_positions"."""
        encoded_BSD = self._project(self.encoder.features(_source(batch)))

        def one_layer(_: None, source: CrossAttention) -> tuple[None, KeysValues]:
            return None, source.keys_values(encoded_BSD)

        _, (k_ZBSKH, v_ZBSKH) = jax.lax.scan(one_layer, None, self.source)
        rows, dtype = batch["source"].shape[0], k_ZBSKH.dtype
        segments_BS = batch.get("source_segments", jnp.ones_like(batch["source"]))
        return Seq2SeqCache(
            empty_cache(self.config.blocks, rows, length, dtype),
            SourceCache(k_ZBSKH, v_ZBSKH, segments_BS),
        )

    def decode(self, cache: Seq2SeqCache, batch: Batch) -> tuple[jax.Array, Seq2SeqCache]:
        """Features (BLD) of L tokens that follow the `cache.written.length` before them, and the
        cache with them in it."""
        (written, source), config = cache, self.config.blocks
        segments_BL = batch.get("segments", jnp.ones_like(batch["tokens"]))
        visible_BLS = same_segment(segments_BL, source.segments_BS)

        def attend(
            part: Pytree, x_BLD: jax.Array, layer: jax.Array, key: jax.Array | None
        ) -> jax.Array:
            cross, keys_values = part
            return cross(x_BLD, keys_values, visible_BLS, layer=layer)

        x_BLD, written = follow(
            self._writer.blocks,
            config,
            self._writer.start,
            written,
            batch,
            kinds=self._kinds,
            reading=Reading((self.source, (source.k_ZBSKH, source.v_ZBSKH)), attend),
        )
        return self._end(x_BLD), Seq2SeqCache(written, source)

    @property
    def _writer(self) -> BERT | GPT:
        return self.encoder if self.decoder is None else self.decoder

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        return self.config.blocks.period

    def _decode(
        self,
        batch: Batch,
        read: jax.Array,
        key: jax.Array | None,
        output: Callable[[jax.Array], Pytree],
    ) -> tuple[jax.Array, Pytree]:
        """What the decoder's blocks give, as models.layers.stack.run; read: the encoder's
        features."""
        encoded_BSD = self._project(read)
        segments_BL = batch.get("segments", jnp.ones_like(batch["tokens"]))
        segments_BS = batch.get("source_segments", jnp.ones_like(batch["source"]))
        visible_BLS = same_segment(segments_BL, segments_BS)

        def attend(
            cross: Any, x_BLD: jax.Array, layer: jax.Array, key: jax.Array | None
        ) -> jax.Array:
            keys_values = cross.keys_values(encoded_BSD)
            return cross(x_BLD, keys_values, visible_BLS, layer=layer, key=key)

        writer = self._writer
        target = {
            name: batch[name] for name in ("tokens", "segments", "positions") if name in batch
        }
        x_BLD, rows = writer.start(target)
        return run(
            writer.blocks,
            self.config.blocks,
            x_BLD,
            rows,
            key,
            kinds=self._kinds,
            output=output,
            reading=Reading(self.source, attend),
        )

    def _project(self, read: jax.Array) -> jax.Array:
        """The encoder's features in the decoder's width, BSD."""
        return read if self.projection is None else self.projection(read)

    def _normalize(self, x_BLD: jax.Array) -> jax.Array:
        """The end of the decoder's residual stream."""
        norm = self._writer.norm if isinstance(self._writer, GPT) else None
        return x_BLD if norm is None else norm(x_BLD)

    def _end(self, x_BLD: jax.Array) -> jax.Array:
        """What the head reads."""
        if isinstance(self._writer, BERT):
            return self._writer.predict(x_BLD, letters="BLD")[0]
        return self._normalize(x_BLD)


def _decoder(config: Any, key: jax.Array) -> BERT | GPT:
    return BERT(config, key) if isinstance(config, BERTConfig) else GPT(config, key)


def _draw(config: EncoderDecoderConfig) -> Any:
    """How the decoder's family draws its weights."""
    drawn = config.decoder.init if isinstance(config.decoder, BERTConfig) else "normal"
    return {"truncated": truncated_param, "normal": param}[drawn]


def _source(batch: Batch) -> dict[str, jax.Array]:
    """The source as an encoder's batch."""
    named = {"tokens": "source", "segments": "source_segments", "positions": "source_positions"}
    return {name: batch[leaf] for name, leaf in named.items() if leaf in batch}
