"""The alphabet: one set of letters names tensor dims, spells einsums and places shards on the mesh.

B batch   L length   S source length   D embed   N heads   K key/value heads   H head dim
F mlp     V vocab    Z layers          C characters in a word
E another embed      W filter width    G gates of an LSTM         U directions
M predicted places   P pairs in a row  R relative positions       Y labels
T token types   X character ids        A character features      O those a highway writes
I rank of an adapter                   J virtual tokens          Q classes of a token
"""

import abc
import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

ALPHABET = {
    "B": "batch",
    "L": "length",
    "S": "source length",
    "D": "embed",
    "N": "heads",
    "K": "key/value heads",
    "H": "head dim",
    "F": "mlp",
    "V": "vocab",
    "Z": "layers",
    "C": "characters in a word",
    "E": "another embed",
    "W": "filter width",
    "G": "gates of an LSTM",
    "U": "directions",
    "M": "predicted places",
    "P": "pairs in a row",
    "R": "relative positions",
    "Y": "labels",
    "T": "token types",
    "X": "character ids",
    "A": "character features",
    "O": "character features a highway writes",
    "I": "rank of an adapter",
    "J": "virtual tokens",
    "Q": "classes of a token",
}
MeshAxes = str | tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Which mesh axes split each letter: at rest (parameters), in flight (activations, and
    parameters while they are used) and in update (optimizer state, gradients, and parameters while
    they are updated), which is as at rest unless a layout says otherwise."""

    at_rest: Mapping[str, MeshAxes]
    in_flight: Mapping[str, MeshAxes]
    updated: Mapping[str, MeshAxes] | None = None

    @property
    def in_update(self) -> Mapping[str, MeshAxes]:
        return self.at_rest if self.updated is None else self.updated


def spec(letters: str, table: Mapping[str, MeshAxes]) -> P:
    """Letters to a PartitionSpec. ValueError for an unknown one or a mesh axis used twice."""
    if unknown := set(letters) - ALPHABET.keys():
        raise ValueError(f"{letters!r} has letters outside the alphabet: {sorted(unknown)}")
    axes = [table.get(letter) for letter in letters]
    flat = [axis for letter in letters for axis in axes_of(table, letter)]
    if len(set(flat)) < len(flat):
        raise ValueError(f"{letters!r} would be split over one mesh axis twice: {axes}")
    return P(*axes)


def axes_of(table: Mapping[str, MeshAxes], letter: str) -> tuple[str, ...]:
    """The mesh axes that split a letter, maybe none."""
    axes = table.get(letter, ())
    return (axes,) if isinstance(axes, str) else tuple(axes)


def placements(letters: Any, table: Mapping[str, MeshAxes], mesh: Mesh) -> Any:
    """A tree of letters -> the same tree of NamedShardings on `mesh`."""
    return jax.tree.map(lambda each: NamedSharding(mesh, spec(each, table)), letters)


_layout: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def partition(mesh: Mesh, layout: Layout) -> Iterator[None]:
    """Everything traced inside is laid out on `mesh` by `layout`."""
    token = _layout.set(layout)
    try:
        with jax.set_mesh(mesh):
            yield
    finally:
        _layout.reset(token)


def current() -> Layout | None:
    """The layout of `partition`; None outside it, and on one device, where a constraint would only
    keep the compiler from seeing that an array is the same."""
    layout = _layout.get()
    return layout if layout and jax.sharding.get_abstract_mesh().size > 1 else None


@contextlib.contextmanager
def leave_to_compiler() -> Iterator[None]:
    """What is traced inside is left to the compiler: a batch of one row that every row reads."""
    token = _layout.set(None)
    try:
        yield
    finally:
        _layout.reset(token)


class Operator(abc.ABC):
    """What stands where a parameter does and knows its own products: an adapted weight.

    A pytree of arrays that `einsum` and `gesso.models.layers.layers.embedded` accept wherever an
    array may be.
    """

    @abc.abstractmethod
    def product(self, equation: str, x: jax.Array, **options: Any) -> jax.Array:
        """What `einsum` of x and this gives."""

    @abc.abstractmethod
    def rows(self, indices_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        """Of a table: what it holds for tokens, BLD."""

    @abc.abstractmethod
    def spell(self, letters: str) -> "Operator":
        """The same with each array's letters in its place; letters: of the parameter it is for."""

    @abc.abstractmethod
    def plain(self) -> jax.Array:
        """The parameter as it was."""

    def __getitem__(self, index: Any) -> jax.Array:
        """Of a table that is also read whole, as a head: the parameter as it was."""
        return self.plain()[index]


def gathers() -> bool:
    """Whether parameters are gathered for their use, in the `partition` that is being traced."""
    layout = current()
    if layout is None:
        return False
    mesh = jax.sharding.get_abstract_mesh().shape
    more = (
        {*axes_of(layout.at_rest, letter)} - {*axes_of(layout.in_flight, letter)}
        for letter in layout.at_rest
    )
    return any(mesh[axis] > 1 for axes in more for axis in axes)


def value_of(w: Any) -> Any:
    """The array or Operator that `w`, maybe an nnx.Param, holds."""
    value = w.get_value() if hasattr(w, "get_value") else w
    return value if isinstance(value, Operator) else jnp.asarray(value)


def shard(x: jax.Array, letters: str) -> jax.Array:
    """Lay `x` out as the in-flight table says; the identity outside `partition`."""
    if x.ndim != len(letters):
        raise ValueError(f"an array of shape {x.shape} cannot be {letters!r}")
    layout = current()
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(letters, layout.in_flight))


def in_use(w: jax.Array, letters: str) -> jax.Array:
    """A parameter laid out in flight, whose gradient is laid out for the update.

    Without the second half the gradient of a gathered parameter is summed whole on every device
    and cut afterwards: twice the bytes of a reduce-scatter.
    """
    return _in_use(w, letters)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _in_use(w: jax.Array, letters: str) -> jax.Array:
    return shard(w, letters)


def _in_use_forward(w: jax.Array, letters: str) -> tuple[jax.Array, None]:
    return shard(w, letters), None


def _in_use_backward(letters: str, _: None, dw: jax.Array) -> tuple[jax.Array]:
    return (gradient(dw, letters),)


_in_use.defvjp(_in_use_forward, _in_use_backward)


def einsum(equation: str, x: jax.Array, w: Any, **options: Any) -> jax.Array:
    """jnp.einsum of an activation with a weight or another activation, all placed by their letters.

    What has a batch dim (B) is an activation; what has none is a parameter, or a parameter's
    gradient. `w` is an array or an Operator, or an nnx.Param of one. `options` go to jnp.einsum
    (preferred_element_type).
    """
    inputs, out = equation.split("->")
    _, w_letters = inputs.split(",")
    w = value_of(w)
    if isinstance(w, Operator):
        return w.product(equation, x, **options)
    placed = shard(w, w_letters) if "B" in w_letters else in_use(w, w_letters)
    y = jnp.einsum(equation, x, placed, **options)
    return shard(y, out) if "B" in out else gradient(y, out)


def at_rest(tree: Any, letters: Any) -> Any:
    """Lay a tree of parameters out as the at-rest table says; the identity outside `partition`.
    `letters` is the same tree of letters. Gradients are laid out for the update."""
    return jax.tree.map(_at_rest, tree, letters) if current() else tree


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_rest(w: jax.Array, letters: str) -> jax.Array:
    layout = current()
    return w if layout is None else _constrain(w, letters, layout.at_rest)


def _at_rest_forward(w: jax.Array, letters: str) -> tuple[jax.Array, None]:
    return _at_rest(w, letters), None


_at_rest.defvjp(_at_rest_forward, _in_use_backward)


def gradient(tree: Any, letters: Any) -> Any:
    """The same for gradients, and for parameters while they are updated, as the in-update table
    says."""
    layout = current()
    return tree if layout is None else _constrain(tree, letters, layout.in_update)


def _constrain(tree: Any, letters: Any, table: Mapping[str, MeshAxes]) -> Any:
    return jax.tree.map(
        lambda x, each: jax.lax.with_sharding_constraint(x, spec(each, table)), tree, letters
    )
