"""Nested dicts of arrays and their leaves by path: {"blocks": {"q": x}} and {"blocks/q": x}."""

from collections.abc import Mapping
from typing import Any


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"blocks/attention/q": leaf} of nested mappings, in their order. Whatever is not a mapping is
    a leaf: an array, its letters, an Operator, LayerParts."""
    leaves: dict[str, Any] = {}
    for name, each in tree.items():
        if isinstance(each, Mapping):
            leaves |= flat(each, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = each
    return leaves


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree
