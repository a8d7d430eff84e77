"""The decoder's own properties: causality, packing, padding, caching, dropout, what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES

from gesso.models import GPTConfig, build


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    model = build(dataclasses.replace(FAMILIES[request.param], init_std=0.3))
    return model, model.init(jax.random.key(0))


@functools.cache
def compiled(config):
    """`apply` of a config, traced once per shape of batch."""
    return jax.jit(build(config).apply)


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


def tokens_of(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 64, (rows, length)).astype(np.int32)


def packed_and_alone():
    """Three documents in one row with padding behind; and the same, one to a row. Equal shapes."""
    lengths, tokens = (7, 12, 9), tokens_of(1, 28)[0]
    names = ("tokens", "segments", "positions")
    packed, alone = ({name: np.zeros((3, 36), np.int32) for name in names} for _ in range(2))
    start = 0
    for number, n in enumerate(lengths):
        values = (tokens[start : start + n], number + 1, np.arange(n))
        for name, value in zip(names, values, strict=True):
            packed[name][0, start : start + n] = value
            alone[name][number, :n] = value
        start += n
    return packed, alone


def test_packed_equals_unpacked(made, monkeypatch):
    """Logits and gradients, with documents that begin and end inside blocks."""
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 8)
    model, params = made

    @jax.jit
    def both(params, batch):
        def loss(params):
            logits = model.apply(params, batch)["logits"]
            return jnp.sum(jax.nn.log_softmax(logits)[..., 3] * (batch["segments"] > 0)), logits

        return jax.grad(loss, has_aux=True)(params)

    packed, alone = packed_and_alone()
    (gradient, logits), (want_gradient, want) = both(params, packed), both(params, alone)
    largest = float(jnp.abs(want).max())
    for number in (1, 2, 3):
        ours, theirs = logits[packed["segments"] == number], want[alone["segments"] == number]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * largest)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=3e-5 * largest)


def test_no_token_sees_the_future(made):
    model, params = made
    tokens = tokens_of(1, 40)
    changed = tokens.copy()
    changed[0, 25:] = (changed[0, 25:] + 1) % 64
    apply = compiled(model.config)
    before, after = (apply(params, {"tokens": x})["logits"] for x in (tokens, changed))
    assert (before[:, :25] == after[:, :25]).all()
    assert (before[:, 25:] != after[:, 25:]).any(axis=-1).all()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_blocks_equal_dense(family, monkeypatch):
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 16)
    config = dataclasses.replace(FAMILIES[family], init_std=0.3)
    params = build(config).init(jax.random.key(0))
    packed, _ = packed_and_alone()
    for batch in ({"tokens": tokens_of(2, 41)}, packed):
        outs = [
            jax.jit(build(dataclasses.replace(config, attention=name)).apply)(params, batch)
            for name in ("dense", "blocks")
        ]
        seen = batch.get("segments", np.ones_like(batch["tokens"])) > 0
        dense, blocks = (np.asarray(out["logits"])[seen] for out in outs)
        np.testing.assert_allclose(blocks, dense, rtol=0, atol=2e-5 * np.abs(dense).max())


@pytest.mark.parametrize("padding", ["reach", "later"])
def test_padding_averages_the_same_in_blocks(padding, monkeypatch):
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 16)
    config = dataclasses.replace(FAMILIES["gpt_neo"], init_std=0.3, padding=padding)
    params = build(config).init(jax.random.key(0))
    batch = {"tokens": tokens_of(2, 41), "segments": np.ones((2, 41), np.int32)}
    batch["segments"][1, :19] = 0
    dense, blocks, row = (
        jax.jit(build(dataclasses.replace(config, **change)).apply)(params, batch)["logits"]
        for change in ({"attention": "dense"}, {}, {"attention": "dense", "padding": "row"})
    )
    np.testing.assert_allclose(blocks, dense, rtol=0, atol=2e-5 * np.abs(dense).max())
    seen = batch["segments"] > 0
    assert (row[seen] == dense[seen]).all() and (row[~seen] != dense[~seen]).any()


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 4}])
def test_remat_and_unroll_change_nothing(change):
    model = build(FAMILIES["gpt_neo"])
    params = model.init(jax.random.key(0))
    batch = {"tokens": tokens_of(2, 16)}

    def gradient(model):
        return jax.jit(jax.grad(lambda p: model.apply(p, batch)["logits"].std()))(params)

    ours = gradient(build(dataclasses.replace(model.config, **change)))
    for x, want in zip(jax.tree.leaves(ours), jax.tree.leaves(gradient(model)), strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_padding_alone_are_finite(made, dtype):
    model, params = made
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    batch = {"tokens": tokens_of(2, 20), "segments": np.zeros((2, 20), np.int32)}
    batch["segments"][0, 12:] = 1

    @jax.jit
    def both(params):
        def loss(params):
            logits = model.apply(params, batch)["logits"]
            return jnp.mean(jnp.square(logits)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, logits), gradient = both(params)
    assert jnp.isfinite(logits).all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_cached_decoding_equals_the_full_forward(made):
    """Left-padded rows of different lengths; a prefill, then 1, 3 and 1 tokens at a time."""
    model, params = made
    lengths, total = (20, 9), 20
    tokens = tokens_of(2, total)
    left = [total - n for n in lengths]
    segments = np.array([[int(i >= pad) for i in range(total)] for pad in left], np.int32)
    positions = np.maximum(np.arange(total)[None] - np.array(left)[:, None], 0).astype(np.int32)
    batch = {"tokens": tokens, "segments": segments, "positions": positions}
    full = np.asarray(compiled(model.config)(params, batch)["logits"])
    cache, at, got, decode = model.init_cache(2, 24), 0, [], jax.jit(model.decode)
    for n in (15, 1, 3, 1):
        part = {name: leaf[:, at : at + n] for name, leaf in batch.items()}
        logits, cache = decode(params, cache, part)
        got.append(logits)
        at += n
    got = np.concatenate(got, axis=1)
    seen = segments > 0
    np.testing.assert_allclose(got[seen], full[seen], rtol=0, atol=2e-5 * np.abs(full).max())
    assert int(cache.length) == total


def test_default_positions_count_on_from_the_cache():
    model = build(FAMILIES["gpt_neo"])
    params = model.init(jax.random.key(0))
    tokens = tokens_of(1, 12)
    _, cache = model.decode(params, model.init_cache(1, 12), {"tokens": tokens[:, :8]})
    rest, _ = model.decode(params, cache, {"tokens": tokens[:, 8:]})
    last, _ = model.decode(params, cache, {"tokens": tokens[:, 8:]}, "last")
    full = np.asarray(compiled(model.config)(params, {"tokens": tokens})["logits"])
    np.testing.assert_allclose(rest, full[:, 8:], rtol=0, atol=2e-5 * np.abs(full).max())
    assert last.shape[1] == 1
    np.testing.assert_allclose(last[:, 0], rest[:, -1], rtol=1e-4, atol=1e-6)


def test_dropout_is_in_the_key_alone():
    rates = {"embedding_dropout": 0.1, "attention_dropout": 0.2, "residual_dropout": 0.3}
    config = dataclasses.replace(FAMILIES["gpt2"], **rates)
    params = build(config).init(jax.random.key(0))
    batch = {"tokens": tokens_of(2, 16)}
    keys = map(jax.random.key, (1, 1, 2))
    out = [compiled(config)(params, batch, key)["logits"] for key in keys]
    assert (out[0] == out[1]).all() and (out[0] != out[2]).any()
    plain = compiled(FAMILIES["gpt2"])(params, batch)["logits"]
    assert (compiled(config)(params, batch)["logits"] == plain).all()
    for name in rates:
        one = compiled(dataclasses.replace(FAMILIES["gpt2"], **{name: 0.5}))
        assert (one(params, batch, jax.random.key(1))["logits"] != plain).any(), name


def test_layers_have_dropout_masks_of_their_own():
    """With the mlp silent and attention the same in all layers, one mask would repeat."""
    model = build(dataclasses.replace(FAMILIES["gpt2"], residual_dropout=0.5))
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    params["blocks"]["attention"]["out_bias"] = jnp.ones((4, 32))
    batch = {"tokens": tokens_of(1, 16)}
    hidden = model.apply(params, batch, jax.random.key(3), hidden=True)["hidden"]
    masks = np.diff(np.asarray(hidden[:-1]), axis=0) != 0
    assert 0.4 < masks.mean() < 0.6
    assert all((masks[i] != masks[j]).any() for i in range(3) for j in range(i))


def test_what_has_no_table_row_is_refused():
    model = build(FAMILIES["gpt2"])
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="49 tokens exceed the model's 48 positions"):
        model.apply(params, {"tokens": tokens_of(1, 49)})
    bad = {"tokens": tokens_of(1, 4), "positions": np.array([[0, 1, 2, 48]], np.int32)}
    with pytest.raises(ValueError, match="positions run from 0 to 48"):
        model.apply(params, bad)
    with pytest.raises(ValueError, match="tokens run from 64"):
        model.apply(params, {"tokens": np.full((1, 4), 64, np.int32)})
    with pytest.raises(ValueError, match="do not fit a cache of 3"):
        model.decode(params, model.init_cache(1, 3), {"tokens": tokens_of(1, 4)})
    # Inside a trace values are unknown: NaN, not a clamped row.
    logits = compiled(model.config)(params, {"tokens": np.full((1, 4), 64, np.int32)})["logits"]
    assert jnp.isnan(logits).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "embed 64 does not divide over 5 heads"),
        ({"rotary_dims": 4}, "needs position_encoding rotary"),
        ({"position_encoding": "rotary", "rotary_dims": 3}, "must be even"),
        ({"position_encoding": "rotary", "rotary_dims": 18}, "at most the head dim 16"),
        ({"norm": "post", "block": "parallel"}, "needs a sequential block"),
        ({"pattern": ("local",)}, "contradict each other"),
        ({"window": 8}, "contradict each other"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"residual_dropout": 1.0}, "below 1"),
        ({"attention": "cudnn", "attention_dropout": 0.1}, "cudnn has no attention_dropout"),
        ({"attention": "cudnn", "padding": "reach"}, "cudnn has no padding reach"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(GPTConfig(**fields))


def test_cudnn_refuses_float32():
    model = build(GPTConfig(attention="cudnn"))
    with pytest.raises(ValueError, match="set precision.compute to bfloat16"):
        model.apply(model.init(jax.random.key(0)), {"tokens": tokens_of(1, 4)})


@pytest.mark.parametrize("layers", [4, 5, 6])
def test_the_pattern_is_cycled_over_the_layers(layers):
    """Whatever the period (2, 5 or 3 of 6 layers), layer i has kind i: only local layers forget."""
    pattern = ("global", "local") if layers < 6 else ("global", "global", "local")
    config = dataclasses.replace(FAMILIES["gpt_neo"], layers=layers, pattern=pattern)
    assert config.kinds == tuple(pattern[i % len(pattern)] for i in range(layers))
    assert config.period * (layers // len(config.period)) == config.kinds
    params = build(config).init(jax.random.key(0))
    tokens = tokens_of(1, 30)
    changed = np.where(np.arange(30) < 3, (tokens + 1) % 64, tokens)
    for i, kind in enumerate(config.kinds):
        only = jax.tree.map(jnp.zeros_like, params["blocks"])
        only = jax.tree.map(lambda x, y, i=i: x.at[i].set(y[i]), only, params["blocks"])
        one = {**params, "blocks": only}
        outs = (compiled(config)(one, {"tokens": x})["logits"] for x in (tokens, changed))
        a, b = (logits[0, -1] for logits in outs)
        assert bool((a == b).all()) == (kind == "local")
