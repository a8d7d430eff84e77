"""What an adapter puts between a model's own equations: virtual tokens, and vectors per token.

Hooks travel with the parameters, under "hooks", and `Model.merge` hands them to the module.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gesso.models.layers.operators import count_before
from gesso.models.trees import Leaf, Params, Pytree
from gesso.partitioning.axes import shard

# The letters of each hook's arrays.
LETTERS: Params = {"prompt": "JD", "prefix": {"k": "ZJNH", "v": "ZJNH"}}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Focus:
    """Focus vectors (https://arxiv.org/abs/2203.01146): before each encoder layer a token of class
    q becomes scale[q] * h + shift[q]; class 1 is what lies between the tokens `begin` (itself
    included) and `end` of its document."""

    scale_ZQD: Leaf
    shift_ZQD: Leaf
    begin: int = field(default=0, metadata={"static": True})
    end: int = field(default=0, metadata={"static": True})

    def classes(self, tokens_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        """i32[B, L], 0 or 1, of each token."""
        begun_BL = count_before(tokens_BL == self.begin, segments_BL) + (tokens_BL == self.begin)
        ended_BL = count_before(tokens_BL == self.end, segments_BL) + (tokens_BL == self.end)
        return (begun_BL > ended_BL).astype(jnp.int32)


class Hooks(NamedTuple):
    """prompt: virtual tokens in front of every document, JD. prefix: {"k", "v"}, ZJNH. focus."""

    prompt: Pytree = None
    prefix: Pytree = None
    focus: Pytree = None

    @property
    def front(self) -> int:
        """How many positions virtual tokens take in front of a document."""
        if self.prompt is not None:
            return self.prompt.shape[0]
        return 0 if self.prefix is None else self.prefix["k"].shape[1]


NONE = Hooks()


class LayerHooks(NamedTuple):
    """What the layers of a stack need of the hooks. per_layer: {"prefix"?, "focus"?}, a tree whose
    arrays lead with Z. places_BL: of each token in its document. classes_BL: of focus."""

    per_layer: Pytree = None
    places_BL: Pytree = None
    classes_BL: Pytree = None


class Prefix(NamedTuple):
    """Keys and values of the virtual tokens in one layer, and where in its document each of the
    row's tokens stands (they count from behind the virtual ones)."""

    k_JKH: jax.Array
    v_JKH: jax.Array
    places_BL: jax.Array


def letters_of(hooks: Params) -> Params:
    """The letters of a tree of hooks."""
    spelled = {}
    for name, each in hooks.items():
        if isinstance(each, Focus):
            spelled[name] = Focus("ZQD", "ZQD", each.begin, each.end)
        else:
            spelled[name] = LETTERS[name]
    return spelled


def apply_focus(x_BLD: jax.Array, focus: Pytree, classes_BL: Leaf) -> jax.Array:
    """scale[q] * x + shift[q]: the affine hook of one layer; focus: (scale_QD, shift_QD)."""
    scale_QD, shift_QD = focus
    scale_BLD, shift_BLD = scale_QD[classes_BL], shift_QD[classes_BL]
    return shard(scale_BLD * x_BLD + shift_BLD, "BLD")


def in_front(
    prefix: Prefix,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visible_BLS: jax.Array,
    blind_BLS: jax.Array | None,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Keys, values and who sees them, with the virtual tokens in front.

    Every document has virtual tokens of its own, which are the same for all: one copy in front of
    the row serves them. A token sees all of them, or those within its window; padding none.
    """
    places_BL, count = prefix.places_BL, prefix.k_JKH.shape[0]
    rows, length = places_BL.shape
    batch, dtype = k_BSKH.shape[0], k_BSKH.dtype
    keys = jnp.broadcast_to(prefix.k_JKH.astype(dtype), (batch, *prefix.k_JKH.shape))
    values = jnp.broadcast_to(prefix.v_JKH.astype(dtype), (batch, *prefix.v_JKH.shape))
    seen_BLJ = jnp.ones((rows, length, count), bool)
    if window is not None:
        distance_BLJ = places_BL[:, :, None] + count - jnp.arange(count)
        seen_BLJ = distance_BLJ < window
    if segments_BL is not None:
        seen_BLJ = seen_BLJ & (segments_BL != 0)[:, :, None]
    wide = (batch, *visible_BLS.shape[1:])
    seen_BLJ = jnp.broadcast_to(seen_BLJ, (batch, length, count))
    visible = jnp.concatenate([seen_BLJ, jnp.broadcast_to(visible_BLS, wide)], axis=2)
    blind = None
    if blind_BLS is not None:
        none_BLJ = jnp.zeros((batch, length, count), bool)
        blind = jnp.concatenate([none_BLJ, jnp.broadcast_to(blind_BLS, wide)], axis=2)
    return (
        shard(jnp.concatenate([keys, k_BSKH], axis=1), "BSKH"),
        shard(jnp.concatenate([values, v_BSKH], axis=1), "BSKH"),
        visible,
        blind,
    )
