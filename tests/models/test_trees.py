"""Nested dicts by path and back."""

import jax.numpy as jnp

from gesso.models.layers.layer_parts import LayerParts
from gesso.models.trees import flat, nest


def test_nest_is_the_inverse_of_flat_and_keeps_the_order():
    tree = {"norm": {"scale": 1, "bias": 2}, "embed": 3, "blocks": {"attention": {"q": 4}}}
    leaves = flat(tree)
    assert list(leaves) == ["norm/scale", "norm/bias", "embed", "blocks/attention/q"]
    assert nest(leaves) == tree and list(nest(leaves)) == list(tree)


def test_what_is_not_a_mapping_is_a_leaf():
    parts = LayerParts(jnp.zeros(1), jnp.zeros(1))
    assert flat({"blocks": {"q": parts, "none": {}}}) == {"blocks/q": parts}
