"""One block of a decoder or an encoder: attention and mlp around the residual stream."""

from collections.abc import Callable

import jax
from flax import nnx

from gesso.models.layers.attention import Attention, Cache, Kind, Rows
from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import param
from gesso.models.layers.mlp import MLP
from gesso.models.layers.norms import make_norm
from gesso.models.layers.settings import BlockSettings
from gesso.partitioning.axes import shard

OfResidual = Callable[[jax.Array], jax.Array]


class Block(nnx.Module):
    """Attention and mlp around the residual stream.

    sequential, pre-norm: GPT-2, GPT-Neo and Llama; post-norm: GPT-1 and BERT. parallel: GPT-NeoX
    (https://arxiv.org/abs/2204.06745), and with one shared norm GPT-J.

    draw: as in Attention. between: what becomes of the residual stream (BLD) behind attention and
    before the mlp, where an encoder-decoder reads its source; sequential blocks only.
    """

    def __init__(self, config: BlockSettings, key: jax.Array, *, draw: Callable = param):
        self.config = config
        attention, mlp = jax.random.split(key)
        stds = {"std": config.hidden_std, "out_std": config.residual_std}
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, attention, draw=draw, **stds)
        shared = config.block == "parallel_shared_norm"
        self.mlp_norm = None if shared else make_norm(config)
        up, down = jax.random.split(mlp)
        # A gate's key of its own: with or without it the other weights have the same bits.
        gate = jax.random.fold_in(mlp, 2) if config.gating == "gated" else up
        self.mlp = MLP(
            config.sizes,
            (up, gate, down),
            activation=config.activation,
            gating=config.gating,
            has_bias="mlp" in config.biases,
            draw=draw,
            **stds,
        )

    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        *,
        kind: Kind,
        layer: jax.Array,
        key: jax.Array | None = None,
        between: OfResidual = lambda x_BLD: x_BLD,
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
        between: OfResidual = lambda x_BLD: x_BLD,
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
        """The block's output, and its keys and values (JKH), of tokens in front of all rows."""
        made: list[tuple[jax.Array, jax.Array]] = []

        def attend(x_BLD: jax.Array) -> jax.Array:
            _, k_BLKH, v_BLKH = self.attention.project(x_BLD, rows, layer=layer)
            made.append((k_BLKH[0], v_BLKH[0]))
            return self.attention(x_BLD, rows, kind=kind, layer=layer, key=None)

        return self.combine(x_1JD, attend, None, lambda x_BLD: x_BLD), made[0]

    def combine(
        self, x_BLD: jax.Array, attend: OfResidual, key: jax.Array | None, between: OfResidual
    ) -> jax.Array:
        """The block's equation, given attention as a function of BLD."""

        def mlp(x_BLD: jax.Array) -> jax.Array:
            return dropout(self.mlp(x_BLD), self.config.residual_dropout, key)

        norm, mlp_norm = self.attention_norm, self.mlp_norm
        if mlp_norm is None:
            normal_BLD = norm(x_BLD)
            # Both read the same norm, so that their products can run side by side.
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
