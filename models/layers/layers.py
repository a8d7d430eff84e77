"""What every model is built of: parameters with letters, products, stacks of layers."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
from flax import nnx

from gesso.models.layers.layer_parts import choose, runs
from gesso.models.layers.settings import Remat
from gesso.models.trees import Leaf, Pytree
from gesso.partitioning.axes import Operator, einsum, gathers, shard, value_of
from gesso.partitioning.lookup import look_up

M = TypeVar("M", bound=nnx.Module)

_POLICIES = jax.checkpoint_policies
REMAT: dict[Remat, Any] = {
    "full": _POLICIES.nothing_saveable,
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "save_attention": _POLICIES.save_only_these_names("attention"),
    "save_qkv_attention_mlp": _POLICIES.save_only_these_names("qkv", "attention", "mlp"),
}


def _weights_again(primitive: jax.extend.core.Primitive, *arrays: Leaf, **_: object) -> bool:
    """Everything is kept but what is made of weights, which are there anyway: one gathered for its
    use or only laid out anew, one sliced from its stack. A frozen one passes a custom derivative
    (`in_use`) that nothing differentiates, and that therefore is still a call."""
    if primitive.name in ("slice", "squeeze", "custom_vjp_call"):
        return False
    return primitive.name != "sharding_constraint" or arrays[0].ndim < 2


def param(key: jax.Array, letters: str, *, sizes: Mapping[str, int], std: float) -> nnx.Param:
    """A float32 parameter drawn from a normal distribution of standard deviation `std`."""
    return nnx.Param(std * jax.random.normal(key, [sizes[each] for each in letters]), axes=letters)


def truncated_param(
    key: jax.Array, letters: str, *, sizes: Mapping[str, int], std: float
) -> nnx.Param:
    """The same, but what lies beyond two standard deviations is drawn again (BERT)."""
    shape = [sizes[each] for each in letters]
    return nnx.Param(std * jax.random.truncated_normal(key, -2, 2, shape), axes=letters)


def constant(value: float, letters: str, *, sizes: Mapping[str, int]) -> nnx.Param:
    """A float32 parameter that starts as one value: 0 for a bias, 1 for a scale."""
    return nnx.Param(jnp.full([sizes[each] for each in letters], value, jnp.float32), axes=letters)


def add_bias(y: jax.Array, bias: nnx.Param | None, letters: str) -> jax.Array:
    """`y` plus a bias over its last dims, or `y` where the model has none."""
    return y if bias is None else y + shard(bias[...], letters)


def embed_tokens(
    table: Leaf, tokens_BL: jax.Array, segments_BL: jax.Array | None = None, letters: str = "VD"
) -> jax.Array:
    """What a table of words (VD, or an adapter's Operator) holds for tokens, BLD."""
    words = value_of(table)
    if isinstance(words, Operator):
        return words.rows(tokens_BL, segments_BL)
    return look_up(words, letters, tokens_BL)


def einsum_float32(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """`einsum` with a float32 result whose gradients are products in the inputs' own dtype.

    Without the second half a bfloat16 model would run two of three products in float32.
    """
    return _einsum_float32(equation, x, w)


def _product(equation, x, w):
    return einsum(equation, x, w, preferred_element_type=jnp.float32)


def _product_forward(equation, x, w):
    return _product(equation, x, w), (x, w)


def _product_backward(equation, saved, dy):
    (x, w), (inputs, out) = saved, equation.split("->")
    x_letters, w_letters = inputs.split(",")
    dy = dy.astype(x.dtype)
    dx = einsum(f"{out},{w_letters}->{x_letters}", dy, w)
    dw = einsum(f"{out},{x_letters}->{w_letters}", dy, x)
    return dx, dw


_einsum_float32: Any = jax.custom_vjp(_product, nondiff_argnums=(0,))
_einsum_float32.defvjp(_product_forward, _product_backward)


def stack(make: Callable[[jax.Array], M], keys: jax.Array) -> M:
    """One module holding len(keys) modules: every parameter gains a leading Z (layers) dim."""
    layers = jax.vmap(make)(keys)
    return jax.tree.map(
        lambda each: each.replace(axes="Z" + each.axes),
        layers,
        is_leaf=lambda each: isinstance(each, nnx.Param),
    )


def scan(
    one_layer: Callable[..., Pytree],
    carry: Pytree,
    per_layer: Pytree,
    *,
    kinds: tuple[Hashable | None, ...],
    remat: Remat,
    unroll: int,
    output: Callable[[Pytree], Pytree],
) -> tuple[Pytree, Pytree]:
    """Apply layers one after another; returns the last carry and `output(carry)` of each, stacked.

    `per_layer` is a tree whose arrays lead with Z, or LayerParts where only the upper layers are
    trained: one scan for each part. One turn of a scan holds len(kinds) layers and calls
    `carry = one_layer(carry, layer's part of per_layer, kind)` for each, so that what differs
    between kinds (a window) is known when compiling.
    """
    made = []
    for run in runs(per_layer, kinds):
        carry, outputs = _scan(
            one_layer,
            carry,
            choose(per_layer, run),
            kinds=run.kinds,
            remat=remat,
            unroll=unroll,
            output=output,
        )
        made.append(outputs)
    return carry, jax.tree.map(lambda *each: jnp.concatenate(each), *made) if made[1:] else made[0]


def _scan(
    one_layer: Callable[..., Pytree],
    carry: Pytree,
    per_layer: Pytree,
    *,
    kinds: tuple[Hashable | None, ...],
    remat: Remat,
    unroll: int,
    output: Callable[[Pytree], Pytree],
) -> tuple[Pytree, Pytree]:
    count = jax.tree.leaves(per_layer)[0].shape[0]
    turns = count // len(kinds)
    assert turns * len(kinds) == count, "a period must divide the layers"
    straight = unroll >= turns
    if straight:
        kinds *= turns
    # Kept for the backward pass, the weights of all layers would be there twice: gathered, as they
    # passed a constraint, or as a loop's turn sliced them.
    policy = REMAT.get(remat, _weights_again if gathers() or not straight else None)

    def layer(carry: Pytree, group: Pytree, *, kind: Hashable | None, place: int | None) -> Pytree:
        mine = group if place is None else jax.tree.map(lambda x: x[place], group)
        return one_layer(carry, mine, kind=kind)

    def turn(carry: Pytree, group: Pytree) -> tuple[Pytree, Pytree]:
        outputs = []
        for i, kind in enumerate(kinds):
            apply = functools.partial(layer, kind=kind, place=i if grouped else None)
            if policy is not None:
                # Inside a loop XLA cannot merge forward and backward; the barrier only costs.
                apply = jax.checkpoint(apply, policy=policy, prevent_cse=straight)
            carry = apply(carry, group)
            outputs.append(output(carry))
        return carry, jax.tree.map(lambda *each: jnp.stack(each), *outputs)

    # A loop of one turn would still copy every layer's weights into it, and so would a turn's group
    # of one layer.
    grouped = straight or len(kinds) > 1
    if straight:
        return turn(carry, per_layer)
    if grouped:
        per_layer = jax.tree.map(lambda x: x.reshape(turns, len(kinds), *x.shape[1:]), per_layer)
    carry, outputs = jax.lax.scan(turn, carry, per_layer, unroll=unroll)
    return carry, jax.tree.map(lambda each: each.reshape(count, *each.shape[2:]), outputs)
