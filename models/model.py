"""A model as functions of a nested dict of arrays: the NNX module exists only inside a trace."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from models.attention import Cache
from models.config import GPTConfig
from models.gpt import GPT

Params = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """What `build` returns. Params are nested dicts ({"blocks": {"attention": {"q": ...}}}).

    letters: the tree of params with each array's letters ("ZDNH") in its place.
    """

    config: GPTConfig
    letters: dict[str, Any]
    _graph: Any
    _state: Any

    def init(self, key: jax.Array) -> Params:
        """float32 params, the same bits on any mesh. May be jitted with output shardings."""
        return nnx.to_pure_dict(nnx.state(GPT(self.config, key)))

    def merge(self, params: Params) -> GPT:
        """The module over these params. Cheap; meant for the inside of a jitted function."""
        state = jax.tree.map(lambda each: each, self._state)
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
        return nnx.merge(self._graph, state)

    def apply(
        self,
        params: Params,
        batch: Mapping[str, Any],
        key: jax.Array | None = None,
        hidden: bool = False,
    ) -> dict[str, jax.Array]:
        """{"logits": f32[B, L, V]} and, where asked, "hidden": [Z + 1, B, L, D].

        batch: "tokens" i32[B, L]; "positions" i32[B, L], 0.. where absent; "segments" i32[B, L],
        0 for padding, one document per row where absent. Other leaves are not read. No key, no
        dropout. Raises ValueError for rows longer than the model's positions and, unless it is
        being traced, for a token or position outside its table.
        """
        self.check(batch)
        module = self.merge(params)
        batch = {name: jnp.asarray(batch[name]) for name in _INPUTS if name in batch}
        if not hidden:
            return {"logits": module.logits(module.features(batch, key))}
        layers_ZBLD = module.hidden(batch, key)
        return {"logits": module.logits(layers_ZBLD[-1]), "hidden": layers_ZBLD}

    def init_cache(self, rows: int, length: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for `rows` rows of up to `length` tokens, padding included."""
        c = self.config
        shape = (c.layers, rows, length, c.heads, c.head_dim)
        return Cache(
            k_ZBSNH=jnp.zeros(shape, dtype),
            v_ZBSNH=jnp.zeros(shape, dtype),
            segments_BS=jnp.zeros((rows, length), jnp.int32),
            length=jnp.zeros((), jnp.int32),
        )

    def decode(
        self,
        params: Params,
        cache: Cache,
        batch: Mapping[str, Any],
        logits: Literal["all", "last"] = "all",
    ) -> tuple[jax.Array, Cache]:
        """Logits f32[B, L, V] (L = 1 for "last") of the tokens after those in the cache.

        Positions count on from the cache's length where the batch has none; a left-padded prompt
        has segments 0 there and its own positions.
        """
        self.check(batch)
        if batch["tokens"].shape[1] > cache.segments_BS.shape[1]:
            raise ValueError(
                f"{batch['tokens'].shape[1]} tokens do not fit a cache of"
                f" {cache.segments_BS.shape[1]}"
            )
        module = self.merge(params)
        batch = {name: jnp.asarray(batch[name]) for name in _INPUTS if name in batch}
        x_BLD, cache = module.decode(cache, batch)
        return module.logits(x_BLD if logits == "all" else x_BLD[:, -1:]), cache

    def check(self, batch: Mapping[str, Any]) -> None:
        """ValueError for a batch this model has no table rows for. Values that are being traced, or
        that live on other hosts, are not looked at; inside a trace they give NaN instead."""
        if (length := batch["tokens"].shape[1]) > self.config.positions:
            raise ValueError(
                f"rows of {length} tokens exceed the model's {self.config.positions} positions;"
                " shorten them, or set model.positions"
            )
        sizes = {"tokens": self.config.vocab, "positions": self.config.positions}
        for name, size in sizes.items():
            values = batch.get(name)
            if values is None or isinstance(values, Tracer):
                continue
            if isinstance(values, jax.Array) and not values.is_fully_addressable:
                continue
            lowest, highest = int(np.asarray(values).min()), int(np.asarray(values).max())
            if lowest < 0 or highest >= size:
                raise ValueError(
                    f"{name} run from {lowest} to {highest}; this model's table has rows 0 to"
                    f" {size - 1}"
                )


_INPUTS = ("tokens", "positions", "segments")


def build(config: GPTConfig) -> Model:
    """The model of a config; nothing is computed. Raises ValueError for a contradictory config."""
    if problems := config.problems():
        raise ValueError("; ".join(problems))
    graph, state = nnx.split(jax.eval_shape(lambda key: GPT(config, key), jax.random.key(0)))
    letters: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        *parents, name = map(str, path)
        place = letters
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = variable.axes
    return Model(config=config, letters=letters, _graph=graph, _state=state)
