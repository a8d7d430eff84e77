"""Weights that are more than an array: what an adapter makes of a frozen parameter.

They are Operators: `partitioning.einsum` asks them for the product instead of multiplying.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from gesso.models.layers.dropout import dropout
from gesso.models.trees import Leaf
from gesso.partitioning.axes import Operator, einsum, shard
from gesso.partitioning.lookup import look_up


def static(default: Any = None) -> Any:
    """A field that is part of the tree's structure, not an array of it."""
    return field(default=default, metadata={"static": True})


def inner_outer(letters: str) -> tuple[str, str]:
    """The letters a weight's product contracts and those it makes, without Z: ("D", "NH") of
    "ZDNH", ("F", "D") of "FD"."""
    plain = letters.removeprefix("Z")
    return (
        (plain[:1], plain[1:]) if plain in ("DNH", "DKH", "DF", "VD") else (plain[:-1], plain[-1:])
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(Operator):
    """W + scale * A B, never made: x W + scale * (dropout(x) A) B.

    base: W ("DNH"). a: its contracted letters and I ("DI"). b: I and the others ("INH"). key: of
    the dropout, or None. A training step of T tokens over a frozen W of n inputs and m outputs
    takes 4 T n m FLOPs for W (forward, and the gradient of x) and 6 T r (n + m) for A and B; it
    keeps T (n + r) numbers for the backward pass, n of them once for all that read the same x, and
    as many numbers of gradient and of each moment as A and B have.
    """

    base: Leaf
    a: Leaf
    b: Leaf
    key: Leaf
    scale: float = static()
    rate: float = static()

    def product(self, equation: str, x: jax.Array, **options: Any) -> jax.Array:
        inputs, out = equation.split("->")
        x_letters, w_letters = inputs.split(",")
        inner = "".join(each for each in w_letters if each not in out)
        outer = "".join(each for each in w_letters if each in out)
        thin = "".join(each for each in x_letters if each not in inner) + "I"
        y = einsum(equation, x, self.base, **options)
        h = einsum(f"{x_letters},{inner}I->{thin}", dropout(x, self.rate, self.key), self.a)
        return y + einsum(f"{thin},I{outer}->{out}", h * self.scale, self.b, **options)

    def rows(self, indices_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        x_BLD = look_up(self.base, "VD", indices_BL)
        h_BLI = look_up(self.a, "VI", indices_BL)
        return x_BLD + einsum("BLI,ID->BLD", h_BLI * self.scale, self.b)

    def spell(self, letters: str) -> "LowRank":
        layers = "Z" if letters.startswith("Z") else ""
        inner, outer = inner_outer(letters)
        key = None if self.key is None else layers
        return replace(self, base=letters, a=f"{layers}{inner}I", b=f"{layers}I{outer}", key=key)

    def plain(self) -> jax.Array:
        return self.base


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled(Operator):
    """(x W) * by, or (x * by) W: what W makes ("out") or reads ("in") is multiplied elementwise.
    by: the letters of that side. The bias is multiplied by whoever makes this
        (models.adapters.adapters)."""

    base: Leaf
    by: Leaf
    side: str = static()

    def product(self, equation: str, x: jax.Array, **options: Any) -> jax.Array:
        inputs, out = equation.split("->")
        x_letters, w_letters = inputs.split(",")
        if self.side == "in":
            by = shard(self.by, "".join(each for each in w_letters if each not in out))
            return einsum(equation, x * by, self.base, **options)
        by = shard(self.by, "".join(each for each in w_letters if each in out))
        return einsum(equation, x, self.base, **options) * by

    def rows(self, indices_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        raise TypeError("a table of words is not scaled")

    def spell(self, letters: str) -> "Scaled":
        layers = "Z" if letters.startswith("Z") else ""
        inner, outer = inner_outer(letters)
        return replace(self, base=letters, by=layers + (inner if self.side == "in" else outer))

    def plain(self) -> jax.Array:
        return self.base


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Injected(Operator):
    """A table of words in which a document's n-th placeholder reads the n-th virtual token.

    A document with more placeholders than there are virtual tokens gets NaN, which no run survives
    unseen.
    """

    base: Leaf
    virtual_JD: Leaf
    placeholder: int = static()

    def product(self, equation: str, x: jax.Array, **options: Any) -> jax.Array:
        return einsum(equation, x, self.base, **options)

    def rows(self, indices_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        indices_BL = shard(indices_BL, "BL")
        x_BLD = look_up(self.base, "VD", indices_BL)
        here_BL = indices_BL == self.placeholder
        number_BL = count_before(here_BL, segments_BL)
        virtual_BLD = look_up(self.virtual_JD, "JD", jnp.where(here_BL, number_BL, 0))
        return jnp.where(here_BL[..., None], virtual_BLD, x_BLD)

    def spell(self, letters: str) -> "Injected":
        return replace(self, base=letters, virtual_JD="JD")

    def plain(self) -> jax.Array:
        return self.base


def count_before(flags_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
    """i32[B, L]: how many flags are set before each place, in its own document. Documents lie side
    by side in a row; their segments differ from their neighbours'."""
    flags_BL = flags_BL.astype(jnp.int32)
    before_BL = jnp.cumsum(flags_BL, axis=1) - flags_BL
    if segments_BL is None:
        return before_BL
    first_BL = jnp.pad(segments_BL[:, 1:] != segments_BL[:, :-1], ((0, 0), (1, 0)))
    return before_BL - jax.lax.cummax(jnp.where(first_BL, before_BL, 0), axis=1)
