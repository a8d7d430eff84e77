"""Rows of a table by index, and the table's gradient: summed where it is made, then scattered."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from gesso.partitioning.axes import Layout, axes_of, current, gradient, shard, spec


def look_up(table: jax.Array, letters: str, indices: jax.Array, places: str = "BL") -> jax.Array:
    """The rows of a parameter that `indices` name: [*indices, *row]. letters: the table's, "VD";
    places: the indices'. An index outside the table gives NaN, which no run survives unseen; JAX's
    default would clamp it to the last row.

    The table is gathered for it, and its gradient, as in `gesso.partitioning.axes.in_use`, ends as
    the layout wants gradients. Each device adds up the rows it has seen, and one reduce-scatter
    does
    the rest: left alone the partitioner may gather every row of the batch on every device, or sum
    the whole table everywhere.
    """
    return _look_up(table, shard(indices, places), letters, places, table.shape, str(table.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _look_up(table, indices, letters, places, shape, dtype):
    whole = shard(table, letters)
    return whole.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _forward(table, indices, letters, places, shape, dtype):
    return _look_up(table, indices, letters, places, shape, dtype), indices


def _backward(letters, places, shape, dtype, indices, dy):
    # The table's dtype, not the activations': many rows may add to one row of the table.
    dy, layout = dy.astype(dtype), current()
    mesh = jax.sharding.get_abstract_mesh()
    split = None if layout is None else _Split.of(layout, letters, places)
    if layout is None or split is None or not split.divides(mesh.shape, shape, indices.shape):
        return gradient(_add_rows(dy, indices, shape, 0), letters), None
    # Vocab may be split too (tensor): each device then adds up its own rows of the table alone.
    rows = math.prod(mesh.shape[axis] for axis in split.row_axes)

    def on_each(dy: jax.Array, indices: jax.Array) -> jax.Array:
        local = (shape[0] // rows, *dy.shape[indices.ndim :])
        first = lax.axis_index(split.row_axes) * local[0] if split.row_axes else 0
        dtable = _add_rows(dy, indices, local, first)
        # Scattered while summed: a psum first would move the whole table to every device.
        for dim, axes in split.scattered.items():
            dtable = lax.psum_scatter(dtable, axes, scatter_dimension=dim, tiled=True)
        return lax.psum(dtable, split.summed) if split.summed else dtable

    dtable = jax.shard_map(
        on_each,
        in_specs=(spec(places + letters[1:], layout.in_flight), spec(places, layout.in_flight)),
        out_specs=split.out,
        check_vma=False,
    )(dy, indices)
    return gradient(dtable, letters), None


_look_up.defvjp(_forward, _backward)


def _add_rows(dy: jax.Array, indices: jax.Array, shape: tuple[int, ...], first: Any) -> jax.Array:
    """The gradient of a table's rows from `first` on."""
    zeros = jnp.zeros(shape, dy.dtype)
    return zeros.at[indices - first].add(dy, mode="drop", wrap_negative_indices=False)


class _Split:
    """How a table's gradient is split while it is made. row_axes: the mesh axes that split its
    rows in flight; scattered: {dim: axes} by which its sum over devices is split in the end;
    summed: the other axes over which rows of the batch lie; out: the spec of what comes out."""

    def __init__(self, layout: Layout, letters: str, places: str):
        self.letters, self.places, self.in_flight = letters, places, layout.in_flight
        self.row_axes = axes_of(layout.in_flight, letters[0])
        batch = tuple(axis for letter in places for axis in axes_of(layout.in_flight, letter))
        self.scattered: dict[int, tuple[str, ...]] = {}
        ends = []
        for dim, letter in enumerate(letters):
            now, then = axes_of(layout.in_flight, letter), axes_of(layout.in_update, letter)
            if not now and then and set(then) <= set(batch):
                self.scattered[dim] = then
                ends.append(then)
            else:
                ends.append(now or None)
        used = {axis for axes in self.scattered.values() for axis in axes}
        self.summed = tuple(axis for axis in batch if axis not in used)
        self.out = P(*ends)

    @classmethod
    def of(cls, layout: Layout, letters: str, places: str) -> "_Split | None":
        """None where a row and its place would be split over one mesh axis."""
        split = cls(layout, letters, places)
        trailing = [axis for letter in letters[1:] for axis in axes_of(layout.in_flight, letter)]
        taken = [*split.row_axes, *trailing, *split.summed]
        taken += [axis for axes in split.scattered.values() for axis in axes]
        return split if len(set(taken)) == len(taken) else None

    def divides(
        self, mesh: Mapping[str, int], table: tuple[int, ...], indices: tuple[int, ...]
    ) -> bool:
        """Whether every part is as large as every other."""
        ways = {
            letter: math.prod(mesh[axis] for axis in axes_of(self.in_flight, letter))
            for letter in self.letters + self.places
        }
        parts = [(size, ways[each]) for each, size in zip(self.places, indices, strict=True)]
        parts += [(size, ways[each]) for each, size in zip(self.letters, table, strict=True)]
        parts += [
            (table[dim], math.prod(mesh[axis] for axis in axes))
            for dim, axes in self.scattered.items()
        ]
        return all(size % n == 0 for size, n in parts)
