"""Stacked layers whose lower part is one array and whose upper part is another.

Only what is differentiated costs a backward pass. Layers of which some are trained come in two
arrays, and `gesso.models.layers.layers.scan` runs them one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerParts:
    """A parameter of Z stacked layers: below [n, ...] and above [Z - n, ...]."""

    below: Any
    above: Any

    def between(self, first: int, end: int) -> jax.Array:
        """Layers first to end - 1, which lie on one side of the cut."""
        cut = _count(self.below)
        if end <= cut:
            return self.below[first:end]
        assert first >= cut, "a run of layers lies on one side of the cut"
        return self.above[first - cut : end - cut]

    def whole(self) -> jax.Array:
        """All layers in one array."""
        return jnp.concatenate([self.below, self.above])


class Run(NamedTuple):
    """Layers `first` to `end` - 1, in turns of layers of these kinds."""

    first: int
    end: int
    kinds: tuple[Any, ...]


def is_parts(each: Any) -> bool:
    """For jax.tree functions: LayerParts are leaves."""
    return isinstance(each, LayerParts)


def runs(per_layer: Any, kinds: Sequence[Any]) -> list[Run]:
    """The runs of layers between two cuts, each a whole number of turns; one where there is no cut.

    per_layer: a tree of LayerParts and of arrays that lead with Z. kinds: of the layers, cycled.
    """
    leaves = jax.tree.leaves(per_layer, is_leaf=is_parts)
    whole = next((each for each in leaves if not is_parts(each)), None)
    count = _layers(leaves[0]) if whole is None else whole.shape[0]
    cuts = {_count(each.below) for each in leaves if is_parts(each)}
    found = []
    edges = sorted({0, count} | cuts)
    for first, end in zip(edges, edges[1:], strict=False):
        turned = first % len(kinds)
        cycle = (*kinds[turned:], *kinds[:turned])
        over = (end - first) % len(kinds)
        if end - over > first:
            found.append(Run(first, end - over, cycle))
        if over:
            found.append(Run(end - over, end, cycle[:over]))
    return found


def choose(per_layer: Any, run: Run) -> Any:
    """The part of a tree that a run of layers reads, as plain arrays."""

    def part(each: Any) -> Any:
        if is_parts(each):
            return each.between(run.first, run.end)
        return each if each.shape[0] == run.end - run.first else each[run.first : run.end]

    return jax.tree.map(part, per_layer, is_leaf=is_parts)


def _layers(each: Any) -> int:
    return _count(each.below) + _count(each.above) if is_parts(each) else each.shape[0]


def _count(part: Any) -> int:
    return jax.tree.leaves(part)[0].shape[0]
