"""A model as functions of a nested dict of arrays: the NNX module exists only inside a trace."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike

from gesso.models.config import ModelConfig
from gesso.models.families import family
from gesso.models.layers.hooks import Hooks
from gesso.models.layers.hooks import letters_of as hook_letters
from gesso.models.network import Network
from gesso.models.trees import Params, Pytree
from gesso.partitioning.axes import Operator


@dataclass(frozen=True)
class Model:
    """What `build` returns. Params are nested dicts ({"blocks": {"attention": {"q": ...}}}).

    letters: the tree of params with each array's letters ("ZDNH") in its place.
    """

    config: ModelConfig
    letters: Params
    _class: type[Network]
    _graph: nnx.GraphDef
    _state: nnx.State

    @property
    def has_encoder(self) -> bool:
        """Whether the model writes what it decodes after reading a source: see `encode`."""
        return self._class.has_encoder

    @property
    def writes(self) -> bool:
        """Whether the model predicts the next token: see `decode`."""
        return self._class.writes

    def init(self, key: jax.Array) -> Params:
        """float32 params, the same on any mesh. May be jitted with output shardings.

        The random bits do not depend on the mesh; a value made from them may differ in its last
        two places where the compiler rounds a share of another shape otherwise.
        """
        return nnx.to_pure_dict(nnx.state(self._class(self.config, key)))

    def merge(self, params: Params) -> Any:
        """The module over these params. Cheap; meant for the inside of a jitted function."""
        state = jax.tree.map(lambda each: each, self._state)
        own = {name: params[name] for name in params if name != "hooks"}
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, own))
        module = nnx.merge(self._graph, state)
        if "hooks" in params:
            module.hooks = nnx.data(Hooks(**params["hooks"]))
        return module

    def letters_of(self, params: Params) -> Params:
        """The letters of params that an adapter may be bound to: of each array in them."""
        return _spell(params, self.letters)

    def apply(
        self,
        params: Params,
        batch: Mapping[str, jax.Array | np.ndarray],
        key: jax.Array | None = None,
        hidden: bool = False,
    ) -> dict[str, jax.Array]:
        """The outputs of the family's `outputs`: for a decoder {"logits": f32[B, L, V]} and, where
        asked, "hidden": [Z + 1, B, L, D].

        batch: "tokens" i32[B, L]; "positions" i32[B, L], 0.. where absent; "segments" i32[B, L],
        0 for padding, one document per row where absent; and what else the family reads. Other
        leaves are not read. No key, no dropout. Raises ValueError for rows longer than the model's
        positions and, unless it is being traced, for an index outside its table.
        """
        return self.merge(params).outputs(self._inputs(batch), key, hidden=hidden)

    def init_cache(self, rows: int, length: int, dtype: DTypeLike = jnp.float32) -> Pytree:
        """An empty cache for `rows` rows of up to `length` tokens, padding included."""
        return self._class.init_cache(self.config, rows, length, dtype)

    def encode(
        self, params: Params, batch: Mapping[str, jax.Array | np.ndarray], length: int
    ) -> Pytree:
        """The cache of an encoder-decoder that has read the batch's source and written nothing,
        with room for `length` tokens; computed once, for `decode`.

        batch: "source" i32[B, S]; "source_segments" (0 for padding) and "source_positions" where
        absent as in `apply`. A cache's arrays are named by their letters, so that rows can be
        chosen of them; those under "source" are the same for all continuations of a row. Raises
        ValueError for a model without an encoder.
        """
        if not self.has_encoder:
            raise ValueError(f"a {self.config.family} model has no encoder and decoder; no source")
        return self.merge(params).encode(self._inputs(batch), length)

    def decode(
        self,
        params: Params,
        cache: Pytree,
        batch: Mapping[str, jax.Array | np.ndarray],
        logits: Literal["all", "last"] = "all",
    ) -> tuple[jax.Array, Pytree]:
        """Logits f32[B, L, V] (L = 1 for "last") of the tokens after those in the cache.

        Positions count on from the cache's length where the batch has none; a left-padded prompt
        has segments 0 there and its own positions.
        """
        module = self.merge(params)
        x_BLD, cache = module.decode(cache, self._inputs(batch))
        return module.logits(x_BLD if logits == "all" else x_BLD[:, -1:]), cache

    def _inputs(self, batch: Mapping[str, jax.Array | np.ndarray]) -> dict[str, jax.Array]:
        """The leaves the model reads. ValueError for a batch it has no table rows for; values that
        are being traced, or that live on other hosts, are not looked at: they give NaN."""
        if self.config.longest is not None:
            for name in ("tokens", "source"):
                if name in batch and (length := batch[name].shape[1]) > self.config.longest:
                    raise ValueError(
                        f"rows of {length} tokens exceed the model's {self.config.longest}"
                        " positions; shorten them, or set model.positions"
                    )
        tables = {
            name: rows for name, rows in self._class.inputs(self.config).items() if name in batch
        }
        for name, rows in tables.items():
            _check(name, batch[name], rows)
        return {name: jnp.asarray(batch[name]) for name in tables}


def _spell(params: Pytree, letters: Pytree) -> Pytree:
    if isinstance(params, Operator):
        return params.spell(letters)
    if not isinstance(params, dict):
        return letters
    return {
        name: hook_letters(each) if name == "hooks" else _spell(each, letters[name])
        for name, each in params.items()
    }


def _check(name: str, values: jax.Array | np.ndarray, rows: int | None) -> None:
    if rows is None or isinstance(values, Tracer):
        return
    if isinstance(values, jax.Array) and not values.is_fully_addressable:
        return
    lowest, highest = int(np.asarray(values).min()), int(np.asarray(values).max())
    if lowest < 0 or highest >= rows:
        raise ValueError(
            f"{name} run from {lowest} to {highest}; this model's table has rows 0 to {rows - 1}"
        )


def build(config: ModelConfig) -> Model:
    """The model of a config; nothing is computed. Raises ValueError for a contradictory config."""
    if problems := config.problems():
        raise ValueError("; ".join(problems))
    made = family(config.family).network()
    graph, state = nnx.split(jax.eval_shape(lambda key: made(config, key), jax.random.key(0)))
    letters: Params = {}
    for path, variable in nnx.to_flat_state(state):
        *parents, name = map(str, path)
        place = letters
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = variable.axes
    return Model(config=config, letters=letters, _class=made, _graph=graph, _state=state)
