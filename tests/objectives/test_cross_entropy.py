"""Cross-entropy: equal to optax's, chunked or split, and never all logits at once when chunked."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gesso.objectives.cross_entropy import cross_entropy
from gesso.partitioning.axes import partition
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

B, L, D, V = 8, 24, 16, 64


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x_BLD = jax.random.normal(keys[0], (B, L, D), dtype)
    table_VD = jax.random.normal(keys[1], (V, D), dtype)
    bias_V = jax.random.normal(keys[2], (V,), dtype)
    return x_BLD, table_VD, bias_V, jax.random.randint(keys[3], (B, L), 0, V)


def plain(x_BLD, table_VD, bias_V, targets_BL):
    logits = jnp.einsum("BLD,VD->BLV", x_BLD, table_VD) + bias_V
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets_BL)
    return nll, jax.nn.logsumexp(logits, axis=-1)


def weighted(function):
    """A scalar in which every position has its own weight, and its gradients."""

    def total(x_BLD, table_VD, bias_V, targets_BL):
        nll, log_z = function(x_BLD, table_VD, bias_V, targets_BL)
        weights = jnp.arange(B * L, dtype=jnp.float32).reshape(B, L) / (B * L)
        return jnp.sum(weights * nll + 0.1 * jnp.square(log_z))

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))


def ours(chunk_tokens):
    def function(x_BLD, table_VD, bias_V, targets_BL):
        return cross_entropy(x_BLD, targets_BL, table_VD, bias_V, chunk_tokens=chunk_tokens)[:2]

    return function


def assert_close(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5 * float(jnp.abs(y).max()))


@pytest.mark.parametrize("chunk_tokens", [0, 1, 8, 40, 64, 10_000])
def test_equal_to_optax_whole_or_in_chunks(chunk_tokens):
    with jax.default_matmul_precision("highest"):
        assert_close(jax.jit(ours(chunk_tokens))(*inputs()), plain(*inputs()))
        assert_close(weighted(ours(chunk_tokens))(*inputs()), weighted(plain)(*inputs()))


def smoothed_by_optax(x_BLD, table_VD, bias_V, targets_BL):
    logits = jnp.einsum("BLD,VD->BLV", x_BLD, table_VD) + bias_V
    labels = optax.smooth_labels(jax.nn.one_hot(targets_BL, V), 0.1)
    return optax.softmax_cross_entropy(logits, labels), jax.nn.logsumexp(logits, axis=-1)


def smoothed(chunk_tokens):
    def function(x_BLD, table_VD, bias_V, targets_BL):
        got = cross_entropy(x_BLD, targets_BL, table_VD, bias_V, chunk_tokens=chunk_tokens)
        return 0.9 * got.nll_BL + 0.1 * got.mean_nll_BL, got.log_z_BL

    return function


@pytest.mark.parametrize("chunk_tokens", [0, 40])
def test_the_mean_over_the_vocabulary_smooths_labels_as_optax_does(chunk_tokens):
    with jax.default_matmul_precision("highest"):
        got, want = weighted(smoothed(chunk_tokens)), weighted(smoothed_by_optax)
        assert_close(got(*inputs()), want(*inputs()))


def test_without_a_bias():
    x_BLD, table_VD, bias_V, targets_BL = inputs()
    want = plain(x_BLD, table_VD, 0 * bias_V, targets_BL)
    for chunk_tokens in (0, 32):
        got = cross_entropy(x_BLD, targets_BL, table_VD, None, chunk_tokens=chunk_tokens)
        assert_close(got[:2], want)
        likeliest = (x_BLD @ table_VD.T).argmax(-1) == targets_BL
        assert (got.correct_BL == likeliest).all()


def test_large_logits_neither_overflow_nor_vanish():
    x_BLD, table_VD, bias_V, targets_BL = inputs()
    value, gradients = weighted(ours(32))(1e4 * x_BLD, table_VD, bias_V, targets_BL)
    assert jnp.isfinite(value) and all(jnp.isfinite(x).all() for x in gradients)


def test_bfloat16_has_float32_losses_and_its_own_gradients():
    x_BLD, table_VD, bias_V, targets_BL = inputs(jnp.bfloat16)
    got = jax.jit(ours(32))(x_BLD, table_VD, bias_V, targets_BL)
    wide = [x.astype(jnp.float32) for x in (x_BLD, table_VD, bias_V)]
    assert all(each.dtype == jnp.float32 for each in got)
    assert_close(got, plain(*wide, targets_BL))  # products of bfloat16 are exact in float32
    _, gradients = weighted(ours(32))(x_BLD, table_VD, bias_V, targets_BL)
    assert all(x.dtype == jnp.bfloat16 for x in gradients)
    text = weighted(ours(0)).lower(x_BLD, table_VD, bias_V, targets_BL).as_text()
    products = re.findall(r"dot_general.*?: \((tensor<.*?>), (tensor<.*?>)\)", text)
    assert len(products) == 3
    assert all("bf16" in left and "bf16" in right for left, right in products)


def test_chunked_logits_never_exist_at_once():
    arguments = inputs()
    sizes = {}
    for chunk_tokens in (0, 16):
        compiled = weighted(ours(chunk_tokens)).lower(*arguments).compile()
        sizes[chunk_tokens] = compiled.memory_analysis().temp_size_in_bytes
        shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
        largest = max(
            np.prod([int(n) for n in s.split(",")]) for s in shapes if f"{V}" in s.split(",")
        )
        assert (largest >= B * L * V) == (chunk_tokens == 0)
    assert sizes[16] < sizes[0] / 2


@pytest.mark.parametrize("sizes", [{"tensor": 4}, {"tensor": 2, "sequence": 2}])
def test_split_over_the_vocabulary_and_the_length(sizes):
    mesh = make_mesh(MeshConfig(data=-1, **sizes))
    with jax.default_matmul_precision("highest"):
        want = weighted(plain)(*inputs())
        with partition(mesh, LAYOUTS["tensor"]):
            for chunk_tokens in (0, 64):
                assert_close(weighted(ours(chunk_tokens))(*inputs()), want)


def test_a_split_vocabulary_is_never_gathered():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    with partition(mesh, LAYOUTS["tensor"]):
        text = weighted(ours(0)).lower(*inputs()).compile().as_text()
    whole = [line for line in text.splitlines() if "all-gather" in line and f",{V}]" in line]
    assert not whole
