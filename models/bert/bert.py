"""The BERT encoder: embeddings, a scan over blocks that see the whole row, and what reads them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gesso.models.bert.config import BERTConfig
from gesso.models.bert.heads import MaskedHead
from gesso.models.layers.attention import Kind, Rows
from gesso.models.layers.block import Block
from gesso.models.layers.dense import Dense
from gesso.models.layers.dropout import dropout
from gesso.models.layers.hooks import LayerHooks
from gesso.models.layers.layers import einsum_float32, embed_tokens, param, stack, truncated_param
from gesso.models.layers.norms import LayerNorm
from gesso.models.layers.stack import run
from gesso.models.layers.text_head import at_places
from gesso.models.network import Network
from gesso.models.trees import Pytree
from gesso.partitioning.axes import shard
from gesso.partitioning.lookup import look_up

Batch = Mapping[str, jax.Array]


class BERT(Network):
    """BERT (https://arxiv.org/abs/1810.04805) and RoBERTa (https://arxiv.org/abs/1907.11692), by
    the fields of their config.

    A row may hold several documents (its segments): a token sees all of its own and none of
    another. Texts are pooled at their first token, wherever in the row it stands.
    """

    def __init__(self, config: BERTConfig, key: jax.Array):
        self.config = config
        sizes, std, has = config.sizes, config.init_std, config.outputs
        draw = {"truncated": truncated_param, "normal": param}[config.init]
        words, places, types, blocks, pooler, *heads = jax.random.split(key, 10)
        self.embed = draw(words, "VD", sizes=sizes, std=std)
        self.positions = draw(places, "SD", sizes=sizes, std=std)
        self.token_types = draw(types, "TD", sizes=sizes, std=std) if config.token_types else None
        self.embed_norm = LayerNorm(sizes, epsilon=config.epsilon)
        self.blocks = stack(
            lambda k: Block(config.blocks, k, draw=draw), jax.random.split(blocks, config.layers)
        )
        two, square = sizes | {"Y": 2}, sizes | {"F": config.embed}
        make: dict[str, Any] = {"std": std, "draw": draw}
        self.pooler = Dense(pooler, "DF", sizes=square, **make) if config.pools else None
        self.mlm = MaskedHead(config, heads[0], draw=draw) if "mlm" in has else None
        self.nsp = Dense(heads[1], "DY", sizes=two, **make) if "nsp" in has else None
        self.classifier = Dense(heads[2], "DY", sizes=sizes, **make) if "classify" in has else None
        self.tagger = Dense(heads[3], "DY", sizes=sizes, **make) if "tag" in has else None
        self.span = Dense(heads[4], "DY", sizes=two, **make) if "span" in has else None

    @staticmethod
    def inputs(config: BERTConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        read = {"tokens": config.vocab, "positions": config.longest, "segments": None}
        return read | ({"token_types": config.token_types} if config.token_types else {})

    def outputs(self, batch: Batch, key: jax.Array | None, *, hidden: bool) -> dict[str, jax.Array]:
        """{"features": [B, L, D], "hidden"?: [Z + 1, B, L, D]} and, by the config's outputs,
        "pooled" [B, D], and in float32 "logits" [B, L, V] (mlm), "next_sentence" [B, 2] (nsp),
        "labels" [B, Y] (classify), "tags" [B, L, Y] (tag), "start" and "end" [B, L] (span).

        Texts are pooled at the first place of each row.
        """
        made: dict[str, jax.Array] = {}
        key, head_key = (None, None) if key is None else jax.random.split(key)
        if hidden:
            made["hidden"] = self.hidden(batch, key)
        x_BLD = made["hidden"][-1] if hidden else self.features(batch, key)
        made["features"], first_BPD = x_BLD, x_BLD[:, :1]
        if self.mlm is not None:
            made["logits"] = self.logits(x_BLD)
        if self.pooler is not None:
            made["pooled"] = self.pool(first_BPD)[:, 0]
        if self.nsp is not None:
            made["next_sentence"] = self.next_sentence(first_BPD)[:, 0]
        if self.classifier is not None:
            made["labels"] = self.classify(first_BPD, head_key)[:, 0]
        if self.tagger is not None:
            made["tags"] = self.tag(x_BLD, head_key)
        if self.span is not None:
            made["start"], made["end"] = jnp.moveaxis(self.answer_span(x_BLD), -1, 0)
        return made

    def features(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The last layer's output, BLD. No key, no dropout."""
        return self._run(batch, key, lambda x_BLD: None)[0]

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The residual stream [Z + 1, B, L, D]: the embeddings, then each layer's output."""
        _, (first_BLD, layers_ZBLD) = self._run(batch, key, lambda x_BLD: x_BLD)
        return jnp.concatenate([first_BLD[None], layers_ZBLD])

    def predict(
        self, x_BMD: jax.Array, *, letters: Literal["BMD", "BLD"] = "BMD"
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What gives the logits of masked tokens, of the features at their places: the transformed
        features (BMD), the table (VD) and the bias (V). letters: "BLD" for all places at once."""
        return _require(self.mlm, "mlm")(x_BMD, letters), *self.head()

    def head(self) -> tuple[jax.Array, jax.Array]:
        """The table (VD) and the bias (V) that turn transformed features into logits."""
        mlm = _require(self.mlm, "mlm")
        return (self.embed if mlm.table is None else mlm.table)[...], mlm.bias[...]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Of all places' features, float32 BLV."""
        h_BLD, table_VD, bias_V = self.predict(x_BLD, letters="BLD")
        return einsum_float32("BLD,VD->BLV", h_BLD, table_VD) + shard(bias_V, "V")

    def pool(self, x_BPD: jax.Array) -> jax.Array:
        """Of the features at texts' first tokens ([CLS]), BPD."""
        pooler = _require(self.pooler, "pooler")
        return shard(jnp.tanh(pooler(x_BPD, "BPD")), "BPD")

    def next_sentence(self, x_BPD: jax.Array) -> jax.Array:
        """float32 [B, P, 2] of the features at pairs' first tokens; 0: the second text follows."""
        return _require(self.nsp, "nsp")(self.pool(x_BPD), "BPD", dtype="float32")

    def of_texts(self, x_BLD: jax.Array, batch: Batch) -> jax.Array:
        """What `classify` reads of each text, BPD: the features of its first token. batch:
        "begins" i32[B, P], where the texts begin."""
        return at_places(x_BLD, batch["begins"])

    def classify(self, x_BPD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """float32 BPY, labels of the texts whose first tokens have these features."""
        pooled_BPD = dropout(self.pool(x_BPD), self.config.head_dropout, key)
        return _require(self.classifier, "classify")(pooled_BPD, "BPD", dtype="float32")

    def tag(self, x_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """float32 BLY, labels of every token."""
        x_BLD = dropout(x_BLD, self.config.head_dropout, key)
        return _require(self.tagger, "tag")(x_BLD, "BLD", dtype="float32")

    def answer_span(self, x_BLD: jax.Array) -> jax.Array:
        """float32 [B, L, 2]: logits of the answer's start and of its end at each place."""
        return _require(self.span, "span")(x_BLD, "BLD", dtype="float32")

    def start(self, batch: Batch) -> tuple[jax.Array, Rows]:
        """The normalised embeddings (BLD) and what attention needs to know of the rows."""
        c, tokens_BL = self.config, batch["tokens"]
        rows = self.positions.shape[0] - c.first_position
        if (length := tokens_BL.shape[1]) > (room := rows - self.hooks.front):
            raise ValueError(f"rows of {length} tokens exceed the model's {room} positions")
        places_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
        positions_BL = shard(batch.get("positions", places_BL), "BL")
        positions_BL = positions_BL + c.first_position + self.hooks.front
        segments_BL = batch.get("segments")
        x_BLD = embed_tokens(self.embed, tokens_BL, segments_BL)
        if segments_BL is not None:
            # Published encoders do not train the id of padding where it is read (padding_idx).
            padding_BL1 = (segments_BL == 0)[..., None]
            x_BLD = jnp.where(padding_BL1, jax.lax.stop_gradient(x_BLD), x_BLD)
        x_BLD = x_BLD + look_up(self.positions[...], "SD", positions_BL)
        if self.token_types is not None:
            types_BL = shard(batch.get("token_types", jnp.zeros_like(tokens_BL)), "BL")
            x_BLD = x_BLD + look_up(self.token_types[...], "TD", types_BL)
        return self.embed_norm(shard(x_BLD, "BLD")), Rows(segments_BL, None)

    def _run(
        self, batch: Batch, key: jax.Array | None, output: Callable[[jax.Array], Pytree]
    ) -> tuple[jax.Array, Pytree]:
        x_BLD, rows = self.start(batch)
        kinds: tuple[Kind, ...] = ("bidirectional",)
        hooks = self._layer_hooks(batch)
        return run(
            self.blocks,
            self.config.blocks,
            x_BLD,
            rows,
            key,
            kinds=kinds,
            output=output,
            hooks=hooks,
        )

    def _layer_hooks(self, batch: Batch) -> LayerHooks:
        """What an adapter puts into the layers."""
        tokens_BL, per_layer, classes_BL = batch["tokens"], {}, None
        if (prefix := self.hooks.prefix) is not None:
            per_layer["prefix"] = prefix
        if (focus := self.hooks.focus) is not None:
            per_layer["focus"] = (focus.scale_ZQD, focus.shift_ZQD)
            classes_BL = focus.classes(tokens_BL, batch.get("segments"))
        # Places matter to windows alone, which an encoder has none of.
        return LayerHooks(per_layer or None, jnp.zeros_like(tokens_BL), classes_BL)


def _require(head: Any, name: str) -> Any:
    if head is None:
        raise ValueError(f"this model has no {name!r}; name it in model.outputs")
    return head
