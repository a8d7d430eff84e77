"""Nested dicts of arrays and their leaves by path: {"blocks": {"q": x}} and {"blocks/q": x}."""

from collections.abc import Mapping
from typing import Any

# Nested dicts whose leaves are arrays, or what stands for them (letters, shapes, Operators).
Params = dict[str, Any]
# {"blocks/attention/q": leaf}.
Leaves = dict[str, Any]
# Any containers of arrays that JAX maps over: what a scan carries, reads or gives.
Pytree = Any
# What stands in a place of `Params`: an array, its letters, an Operator.
Leaf = Any


def flat(tree: Mapping[str, Leaf], prefix: str = "") -> Leaves:
    """{"blocks/attention/q": leaf} of nested mappings, in their order. Whatever is not a mapping is
    a leaf: an array, its letters, an Operator, LayerParts."""
    leaves: Leaves = {}
    for name, each in tree.items():
        if isinstance(each, Mapping):
            leaves |= flat(each, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = each
    return leaves


def nest(leaves: Mapping[str, Leaf]) -> Params:
    """The inverse of `flat`."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree
