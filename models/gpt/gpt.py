"""The GPT decoder: embed, a scan over blocks, a norm, logits."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.attention import Attention, Cache, Kind, Rows
from gesso.models.layers.blocks import empty_cache, follow, run, virtual_layers
from gesso.models.layers.dropout import dropout
from gesso.models.layers.hooks import NONE, Hooks, LayerHooks
from gesso.models.layers.layers import (
    LayerNorm,
    add_bias,
    constant,
    einsum_float32,
    embedded,
    param,
    stack,
)
from gesso.models.layers.rotary import angles
from gesso.models.layers.text_head import TextHead
from gesso.partitioning.axes import einsum, shard
from gesso.partitioning.lookup import look_up

ACTIVATIONS = {
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
}

Between = Callable[[jax.Array], jax.Array]


class MLP(nnx.Module):
    """Two products with an activation between them."""

    def __init__(
        self, config: GPTConfig, key: jax.Array, *, out_std: float, draw: Callable = param
    ):
        self.config = config
        sizes, has_bias = config.sizes, "mlp" in config.biases
        up, down = jax.random.split(key)
        self.up = draw(up, "DF", sizes=sizes, std=config.hidden_std)
        self.down = draw(down, "FD", sizes=sizes, std=out_std)
        self.up_bias = constant(0.0, "F", sizes=sizes) if has_bias else None
        self.down_bias = constant(0.0, "D", sizes=sizes) if has_bias else None

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        h_BLF = add_bias(einsum("BLD,DF->BLF", x_BLD, self.up), self.up_bias, "F")
        h_BLF = ACTIVATIONS[self.config.activation](checkpoint_name(h_BLF, "mlp"))
        return add_bias(einsum("BLF,FD->BLD", h_BLF, self.down), self.down_bias, "D")


class Block(nnx.Module):
    """Attention and mlp around the residual stream.

    sequential, pre-norm: GPT-2 and GPT-Neo; post-norm: GPT-1 and BERT. parallel: GPT-NeoX
    (https://arxiv.org/abs/2204.06745), and with one shared norm GPT-J.

    draw: as in Attention. between: what becomes of the residual stream (BLD) behind attention and
    before the mlp, where an encoder-decoder reads its source; sequential blocks only.
    """

    def __init__(self, config: GPTConfig, key: jax.Array, *, draw: Callable = param):
        self.config = config
        attention, mlp = jax.random.split(key)
        out_std = residual_std(config)
        self.attention_norm = LayerNorm(config.sizes, epsilon=config.epsilon)
        self.attention = Attention(config, attention, out_std=out_std, draw=draw)
        shared = config.block == "parallel_shared_norm"
        self.mlp_norm = None if shared else LayerNorm(config.sizes, epsilon=config.epsilon)
        self.mlp = MLP(config, mlp, out_std=out_std, draw=draw)

    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        *,
        kind: Kind,
        layer: jax.Array,
        key: jax.Array | None = None,
        between: Between = lambda x_BLD: x_BLD,
    ) -> jax.Array:
        keys = (None, None, None) if key is None else jax.random.split(key, 3)

        def attend(x_BLD: jax.Array) -> jax.Array:
            y_BLD = self.attention(x_BLD, rows, kind=kind, layer=layer, key=keys[0])
            return dropout(y_BLD, self.config.residual_dropout, keys[1])

        return self.combine(x_BLD, attend, keys[2], between)

    def decode(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        cache: Cache,
        *,
        kind: Kind,
        layer: jax.Array,
        between: Between = lambda x_BLD: x_BLD,
    ) -> tuple[jax.Array, Cache]:
        """The same for L tokens that follow those in the cache, which comes back with theirs."""
        after: list[Cache] = []

        def attend(x_BLD: jax.Array) -> jax.Array:
            y_BLD, filled = self.attention.decode(x_BLD, rows, cache, kind=kind, layer=layer)
            after.append(filled)
            return y_BLD

        return self.combine(x_BLD, attend, None, between), after[0]

    def virtual(
        self, x_1JD: jax.Array, rows: Rows, *, kind: Kind, layer: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The block's output, and its keys and values (JNH), of tokens in front of all rows."""
        made: list[tuple[jax.Array, jax.Array]] = []

        def attend(x_BLD: jax.Array) -> jax.Array:
            _, k_BLNH, v_BLNH = self.attention.project(x_BLD, rows, layer=layer)
            made.append((k_BLNH[0], v_BLNH[0]))
            return self.attention(x_BLD, rows, kind=kind, layer=layer, key=None)

        return self.combine(x_1JD, attend, None, lambda x_BLD: x_BLD), made[0]

    def combine(
        self, x_BLD: jax.Array, attend: Any, key: jax.Array | None, between: Between
    ) -> jax.Array:
        """The block's equation, given attention as a function of BLD."""

        def mlp(x_BLD: jax.Array) -> jax.Array:
            return dropout(self.mlp(x_BLD), self.config.residual_dropout, key)

        norm, mlp_norm = self.attention_norm, self.mlp_norm
        if mlp_norm is None:
            normal_BLD = norm(x_BLD)
            x_BLD = x_BLD + attend(normal_BLD) + mlp(normal_BLD)
        elif self.config.block == "parallel":
            x_BLD = x_BLD + attend(norm(x_BLD)) + mlp(mlp_norm(x_BLD))
        elif self.config.norm == "post":
            x_BLD = between(norm(x_BLD + attend(x_BLD)))
            x_BLD = mlp_norm(x_BLD + mlp(x_BLD))
        else:
            x_BLD = between(x_BLD + attend(norm(x_BLD)))
            x_BLD = x_BLD + mlp(mlp_norm(x_BLD))
        return shard(x_BLD, "BLD")


def residual_std(config: GPTConfig) -> float:
    """The standard deviation of the products that write to the residual stream."""
    return {
        "same": config.hidden_std,
        "layers": config.hidden_std / config.layers**0.5,
        "depth": config.hidden_std / (2 * config.layers) ** 0.5,
        "wang": 2 / (config.layers * config.embed**0.5),
    }[config.residual_init]


class GPT(nnx.Module):
    """GPT-1 (https://openai.com/research/language-unsupervised), GPT-2
    (https://openai.com/research/better-language-models), GPT-Neo
    (https://github.com/EleutherAI/gpt-neo), GPT-J (https://github.com/kingoflolz/mesh-transformer-jax)
    and GPT-NeoX (https://arxiv.org/abs/2204.06745), by the fields of their config."""

    hooks: Hooks = NONE

    def __init__(self, config: GPTConfig, key: jax.Array):
        self.config = config
        sizes, std = config.sizes, config.init_std
        embed, positions, blocks, head = jax.random.split(key, 4)
        learned = config.position_encoding == "learned"
        self.embed = param(embed, "VD", sizes=sizes, std=std)
        self.positions = param(positions, "SD", sizes=sizes, std=std) if learned else None
        self.blocks = stack(lambda k: Block(config, k), jax.random.split(blocks, config.layers))
        self.norm = LayerNorm(sizes, epsilon=config.epsilon) if config.norm == "pre" else None
        self.head_table = (
            param(head, "VD", sizes=sizes, std=config.head_std) if config.head == "untied" else None
        )
        self.head_bias = constant(0.0, "V", sizes=sizes) if "head" in config.biases else None
        # A key of its own: with or without this head the other parameters have the same bits.
        labelled = "classify" in config.outputs
        self.classifier = TextHead(config, jax.random.fold_in(key, 4)) if labelled else None

    @staticmethod
    def inputs(config: GPTConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        return {"tokens": config.vocab, "positions": config.positions, "segments": None}

    def outputs(
        self, batch: Mapping[str, jax.Array], key: jax.Array | None, *, hidden: bool
    ) -> dict[str, jax.Array]:
        """{"logits": f32[B, L, V], "hidden"?: [Z + 1, B, L, D]} and, of a model with labels,
        "labels" [B, Y], of each row as one text."""
        made = {"hidden": self.hidden(batch, key)} if hidden else {}
        x_BLD = made["hidden"][-1] if hidden else self.features(batch, key)
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
        """What the head reads, BLD. No key, no dropout."""
        return self._run(batch, key, lambda x_BLD: None)[0]

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
    def init_cache(config: GPTConfig, rows: int, length: int, dtype: Any) -> Cache:
        """An empty cache; Model.init_cache says more."""
        return empty_cache(config, rows, length, dtype)

    def decode(self, cache: Cache, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Cache]:
        """Features (BLD) of L tokens that follow the `cache.length` before them, and the cache
        with them in it."""
        c, prefix = self.config, self.prefix()
        x_BLD, cache = follow(
            self.blocks, c, self.start, cache, batch, kinds=c.period, prefix=prefix
        )
        return x_BLD if self.norm is None else self.norm(x_BLD), cache

    def start(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Rows]:
        """The embeddings (BLD) and what attention needs to know of the rows."""
        c, tokens_BL, segments_BL = self.config, batch["tokens"], batch.get("segments")
        rows = c.positions if self.positions is None else self.positions.shape[0]
        if (length := tokens_BL.shape[1]) > (room := rows - self.hooks.front):
            raise ValueError(f"rows of {length} tokens exceed the model's {room} positions")
        x_BLD = embedded(self.embed, tokens_BL, segments_BL)
        x_BLD, turns = self._placed(x_BLD, self._places(batch) + self.hooks.front)
        return shard(x_BLD, "BLD"), Rows(segments_BL, turns)

    def prefix(self) -> dict[str, jax.Array] | None:
        """The keys and values of the virtual tokens in front of every document, {"k", "v"} ZJNH."""
        c, prompt_JD = self.config, self.hooks.prompt
        if prompt_JD is None:
            return self.hooks.prefix
        x_1JD, turns = self._placed(prompt_JD[None], jnp.arange(prompt_JD.shape[0])[None])
        return virtual_layers(self.blocks, c, x_1JD, Rows(None, turns), kinds=c.period)

    def _places(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Where in its document each token stands."""
        tokens_BL = batch["tokens"]
        counted_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
        return shard(batch.get("positions", counted_BL), "BL")

    def _placed(self, x_BLD: jax.Array, positions_BL: jax.Array) -> tuple[jax.Array, Any]:
        """Embeddings with their positions, and the angles of what turns by them."""
        c = self.config
        if self.positions is None:
            return x_BLD, angles(positions_BL, dims=c.rotary_dims, base=c.rotary_base)
        return x_BLD + look_up(self.positions[...], "SD", positions_BL), None

    def _labels(self) -> TextHead:
        if self.classifier is None:
            raise ValueError('this model has no "classify"; name it in model.outputs')
        return self.classifier

    def _run(
        self, batch: Mapping[str, jax.Array], key: jax.Array | None, output: Any
    ) -> tuple[jax.Array, Any]:
        c, prefix = self.config, self.prefix()
        x_BLD, rows = self.start(batch)
        hooks = LayerHooks(prefix and {"prefix": prefix}, self._places(batch))
        x_BLD, outputs = run(
            self.blocks, c, x_BLD, rows, key, kinds=c.period, output=output, hooks=hooks
        )
        return x_BLD if self.norm is None else self.norm(x_BLD), outputs
