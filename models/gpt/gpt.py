"""The GPT decoder: embed, a scan over blocks, a norm, logits."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.attention import Cache, Rows
from gesso.models.layers.block import Block
from gesso.models.layers.hooks import LayerHooks
from gesso.models.layers.layers import (
    constant,
    einsum_float32,
    embed_tokens,
    param,
    stack,
)
from gesso.models.layers.norms import make_norm
from gesso.models.layers.rotary import angles
from gesso.models.layers.stack import empty_cache, follow, run, virtual_layers
from gesso.models.layers.text_head import TextHead
from gesso.models.network import Network
from gesso.models.trees import Pytree
from gesso.partitioning.axes import einsum, shard
from gesso.partitioning.lookup import look_up


class GPT(Network):
    """GPT-1 (https://openai.com/research/language-unsupervised), GPT-2
    (https://openai.com/research/better-language-models), GPT-Neo
    (https://github.com/EleutherAI/gpt-neo), GPT-J (https://github.com/kingoflolz/mesh-transformer-jax)
    GPT-NeoX (https://arxiv.org/abs/2204.06745), OPT (https://arxiv.org/abs/2205.01068) and Llama
    (https://arxiv.org/abs/2302.13971), by the fields of their config."""

    writes = True

    def __init__(self, config: GPTConfig, key: jax.Array):
        self.config = config
        sizes, std = config.sizes, config.init_std
        embed, positions, blocks, head = jax.random.split(key, 4)
        learned = config.position_encoding == "learned"
        words = f"V{config.word_letter}"
        self.embed = param(embed, words, sizes=sizes, std=std)
        self.positions = param(positions, "SD", sizes=sizes, std=std) if learned else None
        self.blocks = stack(lambda k: Block(config, k), jax.random.split(blocks, config.layers))
        ends = config.norm == "pre" and config.final_norm == "pre"
        self.norm = make_norm(config) if ends else None
        untied = config.head == "untied"
        self.head_table = param(head, words, sizes=sizes, std=config.head_std) if untied else None
        self.head_bias = constant(0.0, "V", sizes=sizes) if "head" in config.biases else None
        # Keys of their own: with or without these the other parameters have the same bits.
        own = config.word_embed > 0
        fold = jax.random.fold_in
        self.project_in = param(fold(key, 5), "ED", sizes=sizes, std=std) if own else None
        self.project_out = param(fold(key, 6), "DE", sizes=sizes, std=std) if own else None
        labelled = "classify" in config.outputs
        self.classifier = TextHead(config, jax.random.fold_in(key, 4)) if labelled else None

    @staticmethod
    def inputs(config: GPTConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        return {"tokens": config.vocab, "positions": config.longest, "segments": None}

    def outputs(
        self, batch: Mapping[str, jax.Array], key: jax.Array | None, *, hidden: bool
    ) -> dict[str, jax.Array]:
        """{"logits": f32[B, L, V], "hidden"?: [Z + 1, B, L, D]}; of a model with labels "labels"
        [B, Y], of each row as one text; with hidden and word_embed also "features" [B, L, E]."""
        made = {"hidden": self.hidden(batch, key)} if hidden else {}
        x_BLD = self._project(made["hidden"][-1]) if hidden else self.features(batch, key)
        if hidden and self.project_out is not None:
            made["features"] = x_BLD
        made["logits"] = self.logits(x_BLD)
        if self.classifier is not None:
            whole = (batch["segments"] > 0) if "segments" in batch else jnp.ones_like(x_BLD[..., 0])
            segments_BL = whole.astype(jnp.int32)
            last_B1 = (jnp.arange(x_BLD.shape[1]) * segments_BL).max(1, keepdims=True)
            texts = {"ends": last_B1, "segments": segments_BL}
            made["labels"] = self.classify(self.of_texts(x_BLD, texts))[:, 0]
        return made

    def of_texts(self, x_BLD: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """What `classify` reads of each text, BPD: see models.layers.text_head.TextHead.read."""
        return self._labels().read(x_BLD, batch)

    def classify(self, x_BPD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """float32 BPY, logits of the labels of texts with these features."""
        return self._labels()(x_BPD, key)

    def features(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """What the head reads, BLD (BLE with word_embed). No key, no dropout."""
        return self._project(self._run(batch, key, lambda x_BLD: None)[0])

    def hidden(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """The residual stream [Z + 1, B, L, D]: the embeddings, then each layer's output, the last
        of them after the final norm where there is one."""
        x_BLD, (first_BLD, layers_ZBLD) = self._run(batch, key, lambda x_BLD: x_BLD)
        return jnp.concatenate([first_BLD[None], layers_ZBLD[:-1], x_BLD[None]])

    def head(self) -> tuple[jax.Array, jax.Array | None]:
        """The table (VD) and the bias (V), if any, that turn features into logits."""
        table = self.embed if self.head_table is None else self.head_table
        return table[...], None if self.head_bias is None else self.head_bias[...]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """float32 BLV."""
        table_VD, bias_V = self.head()
        logits_BLV = einsum_float32("BLD,VD->BLV", x_BLD, table_VD)
        return logits_BLV if bias_V is None else logits_BLV + shard(bias_V, "V")

    @staticmethod
    def init_cache(config: GPTConfig, rows: int, length: int, dtype: DTypeLike) -> Cache:
        """An empty cache; Model.init_cache says more."""
        return empty_cache(config, rows, length, dtype)

    def decode(self, cache: Cache, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Cache]:
        """Features (BLD) of L tokens that follow the `cache.length` before them, and the cache
        with them in it."""
        c, prefix = self.config, self.prefix()
        x_BLD, cache = follow(
            self.blocks, c, self.start, cache, batch, kinds=c.period, prefix=prefix
        )
        return self._project(x_BLD if self.norm is None else self.norm(x_BLD)), cache

    def start(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Rows]:
        """The embeddings (BLD) and what attention needs to know of the rows."""
        c, tokens_BL, segments_BL = self.config, batch["tokens"], batch.get("segments")
        rows = c.positions if self.positions is None else self.positions.shape[0]
        before = c.first_position + self.hooks.front
        if (length := tokens_BL.shape[1]) > (room := rows - before):
            raise ValueError(f"rows of {length} tokens exceed the model's {room} positions")
        x_BLD = embed_tokens(self.embed, tokens_BL, segments_BL, f"V{c.word_letter}")
        if self.project_in is not None:
            x_BLD = einsum("BLE,ED->BLD", x_BLD, self.project_in)
        x_BLD, turns = self._place(x_BLD, self._places(batch) + before)
        return shard(x_BLD, "BLD"), Rows(segments_BL, turns)

    def prefix(self) -> dict[str, jax.Array] | None:
        """The keys and values of the virtual tokens in front of every document, {"k", "v"} ZJNH."""
        c, prompt_JD = self.config, self.hooks.prompt
        if prompt_JD is None:
            return self.hooks.prefix
        places_J = jnp.arange(c.first_position, c.first_position + prompt_JD.shape[0])
        x_1JD, turns = self._place(prompt_JD[None], places_J[None])
        return virtual_layers(self.blocks, c, x_1JD, Rows(None, turns), kinds=c.period)

    def _places(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Where in its document each token stands."""
        tokens_BL = batch["tokens"]
        counted_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
        return shard(batch.get("positions", counted_BL), "BL")

    def _place(self, x_BLD: jax.Array, positions_BL: jax.Array) -> tuple[jax.Array, Pytree]:
        """Embeddings with their positions, and the angles of what turns by them."""
        c = self.config
        if self.positions is None:
            return x_BLD, angles(positions_BL, dims=c.rotary_dims, base=c.rotary_base)
        return x_BLD + look_up(self.positions[...], "SD", positions_BL), None

    def _project(self, x_BLD: jax.Array) -> jax.Array:
        """Features in the width of the table of tokens."""
        if self.project_out is None:
            return x_BLD
        return einsum("BLD,DE->BLE", x_BLD, self.project_out)

    def _labels(self) -> TextHead:
        if self.classifier is None:
            raise ValueError('this model has no "classify"; name it in model.outputs')
        return self.classifier

    def _run(
        self,
        batch: Mapping[str, jax.Array],
        key: jax.Array | None,
        output: Callable[[jax.Array], Pytree],
    ) -> tuple[jax.Array, Pytree]:
        c, prefix = self.config, self.prefix()
        x_BLD, rows = self.start(batch)
        hooks = LayerHooks(prefix and {"prefix": prefix}, self._places(batch))
        x_BLD, outputs = run(
            self.blocks, c, x_BLD, rows, key, kinds=c.period, output=output, hooks=hooks
        )
        return x_BLD if self.norm is None else self.norm(x_BLD), outputs
