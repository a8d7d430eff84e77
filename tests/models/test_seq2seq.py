"""The encoder-decoder's own properties: packing, padding, caching, positions, what it refuses."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pack_reader import flat
from seq2seq_families import FAMILIES, T5, packed_and_alone, params_of
from suffixes import checked

from gesso import models
from gesso.models import Seq2SeqConfig, build
from gesso.models.layers import dropout
from gesso.models.layers.relative_bias import bucket
from gesso.models.seq2seq.layers import sinusoid


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    model = build(FAMILIES[request.param])
    return model, params_of(model)


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def compiled(config):
    return jax.jit(build(config).apply)


def plain(rows=2, source=9, length=7):
    generator = np.random.default_rng(1)
    return {
        "source": generator.integers(0, 64, (rows, source)).astype(np.int32),
        "tokens": generator.integers(0, 64, (rows, length)).astype(np.int32),
    }


def test_packed_equals_unpacked(made):
    """Logits and gradients: a piece of a row reads its own source, is positioned by itself and sees
    no other piece. Distances, which T5 takes from places in the row, are those of positions."""
    model, params = made

    @jax.jit
    def both(params, batch):
        def loss(params):
            logits = model.apply(params, batch)["logits"]
            return jnp.sum(jax.nn.log_softmax(logits)[..., 3] * (batch["segments"] > 0)), logits

        return jax.grad(loss, has_aux=True)(params)

    packed, alone = packed_and_alone()
    (gradient, logits), (want_gradient, want) = both(params, packed), both(params, alone)
    assert jnp.isfinite(logits).all()  # also of the rows that are padding alone
    for number in (1, 2, 3):
        ours, theirs = logits[0][packed["segments"][0] == number], want[number - 1]
        theirs = theirs[alone["segments"][number - 1] == 1]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * jnp.abs(want).max())
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=3e-5 * largest)


def test_cached_decoding_equals_the_full_forward(made):
    """The source is read once; 4, 1 and 2 tokens follow, in rows of which one is left-padded."""
    model, params = made
    batch = plain()
    batch["source_segments"] = np.array([[1] * 9, [1] * 5 + [0] * 4], np.int32)
    batch["segments"] = np.array([[1] * 7, [0, 0] + [1] * 5], np.int32)
    batch["positions"] = np.maximum(np.arange(7)[None] - [[0], [2]], 0).astype(np.int32)
    full = np.asarray(compiled(model.config)(params, batch)["logits"])
    cache = jax.jit(model.encode, static_argnums=2)(params, batch, 9)
    decode, got, at = jax.jit(model.decode), [], 0
    for n in (4, 1, 2):
        names = ("tokens", "segments", "positions")
        part = {name: batch[name][:, at : at + n] for name in names}
        logits, cache = decode(params, cache, part)
        got.append(logits)
        at += n
    got, seen = np.concatenate(got, axis=1), batch["segments"] > 0
    np.testing.assert_allclose(got[seen], full[seen], rtol=0, atol=2e-5 * np.abs(full).max())
    assert int(cache.written.length) == 7


def test_positions_and_segments_have_defaults():
    """One piece per row, places counted: in the forward pass and from the cache on."""
    config = FAMILIES["learned"]
    model, batch = build(config), plain()
    params = params_of(model)
    want = compiled(config)(params, batch)["logits"]
    said = dict(batch)
    for prefix, name in (("source_", "source"), ("", "tokens")):
        said[f"{prefix}segments"] = np.ones_like(batch[name])
        said[f"{prefix}positions"] = np.broadcast_to(
            np.arange(batch[name].shape[1], dtype=np.int32), batch[name].shape
        )
    got = compiled(config)(params, said)["logits"]
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())

    @jax.jit
    def follow(params):
        cache = model.encode(params, batch, 7)
        _, cache = model.decode(params, cache, {"tokens": batch["tokens"][:, :5]})
        return model.decode(params, cache, {"tokens": batch["tokens"][:, 5:]}, "last")[0]

    rest = follow(params)
    np.testing.assert_allclose(rest[:, 0], want[:, -1], atol=2e-5 * np.abs(want).max())


def test_rows_of_padding_alone_are_finite():
    model = build(FAMILIES["transformer"])
    params = jax.tree.map(lambda x: x.astype("bfloat16"), params_of(model))
    batch, _ = packed_and_alone()  # its second and third row are padding

    @jax.jit
    def both(params):
        def loss(params):
            logits = model.apply(params, batch)["logits"]
            return jnp.mean(jnp.square(logits)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, logits), gradient = both(params)
    assert jnp.isfinite(logits).all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


# What draws random numbers: once on each side, or in the encoder's and the decoder's layer.
DRAWS = {"embedding": 2, "final": 2, "mlp": 2, "attention": 1 + 2, "residual": 2 + 3}


@pytest.mark.parametrize("kind", DRAWS)
def test_every_dropout_draws_where_it_is_published(kind, monkeypatch):
    model = build(dataclasses.replace(FAMILIES["t5"], **{f"{kind}_dropout": 0.5}))
    assert model.config.drops and not FAMILIES["t5"].drops
    params, drawn, draw = jax.eval_shape(model.init, jax.random.key(0)), [], dropout._draw
    monkeypatch.setattr(dropout, "_draw", lambda *each: drawn.append(0) or draw(*each))
    jax.eval_shape(lambda p, key: model.apply(p, plain(), key), params, jax.random.key(0))
    assert len(drawn) == DRAWS[kind]


def test_dropout_is_in_the_key_alone():
    config = dataclasses.replace(FAMILIES["t5"], residual_dropout=0.2, mlp_dropout=0.2)
    params, batch = params_of(build(config)), plain()
    one, again, other = (
        compiled(config)(params, batch, jax.random.key(k))["logits"] for k in (1, 1, 2)
    )
    assert (one == again).all() and (one != other).any()
    without = compiled(FAMILIES["t5"])(params, batch)["logits"]
    assert (compiled(config)(params, batch)["logits"] == without).all()


def test_hidden_states_begin_with_the_embeddings_and_end_as_the_sides_do():
    config = FAMILIES["learned"]
    model, batch = build(config), plain()
    params = params_of(model)

    @jax.jit
    def both(params):
        module, leaves = model.merge(params), jax.tree.map(jnp.asarray, batch)
        return model.apply(params, batch, hidden=True), module.features(leaves)

    out, features = both(params)
    assert out["encoder_hidden"].shape == (3, 2, 9, 32) and out["hidden"].shape == (4, 2, 7, 32)
    table, places = params["source_embed"] * 32**0.5, params["encoder"]["positions"][:9]
    np.testing.assert_allclose(out["encoder_hidden"][0], table[batch["source"]] + places, rtol=1e-5)
    np.testing.assert_allclose(out["hidden"][-1], features, rtol=1e-4, atol=1e-5)
    check_normal(out["encoder_hidden"][-1], params["encoder"]["norm"])


def check_normal(x, norm):
    """`x` is what this norm makes of something."""
    plain = (x - norm["bias"]) / norm["scale"]
    np.testing.assert_allclose(plain.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(plain.std(-1), 1, rtol=1e-3)


def test_sinusoids_are_the_formula():
    positions = np.array([[0, 1, 7, 500]])
    got = sinusoid(jnp.asarray(positions), dims=10)
    for column, position in enumerate(positions[0]):
        for i in range(5):
            angle = position / 10000 ** (2 * i / 10)
            np.testing.assert_allclose(got[0, column, 2 * i], np.sin(angle), atol=5e-5)
            np.testing.assert_allclose(got[0, column, 2 * i + 1], np.cos(angle), atol=5e-5)


@pytest.mark.parametrize(
    ("fields", "tables"),
    [
        ({}, ["embed"]),  # source, target and head in one: the Transformer's
        ({"head": "untied"}, ["embed", "head_table"]),
        ({"embedding": "separate"}, ["embed", "source_embed"]),
        ({"embedding": "separate", "head": "untied"}, ["embed", "head_table", "source_embed"]),
    ],
)
def test_tables_are_tied_as_told(fields, tables):
    letters = flat(build(Seq2SeqConfig(**fields)).letters)
    assert sorted(name for name, each in letters.items() if each == "VD") == tables


def test_post_norm_normalises_the_residual_and_has_no_last_norm():
    model = build(FAMILIES["transformer"])
    params = params_of(model)
    assert "norm" not in params["encoder"] and "norm" not in params["decoder"]
    hidden = jax.jit(functools.partial(model.apply, hidden=True))(params, plain())["hidden"]
    for layer in range(2):
        norm = params["decoder"]["layers"]["mlp_norm"]
        check_normal(hidden[layer + 1], {name: leaf[layer] for name, leaf in norm.items()})


def test_buckets_are_single_places_and_then_logarithmic():
    """T5's 32 buckets up to 128: 8 single places in each direction of the encoder, 16 in the
    decoder, which has one."""
    distance = np.arange(-5000, 5001)
    both, before = (
        np.asarray(bucket(jnp.asarray(distance), buckets=32, furthest=128, direction=direction))
        for direction in ("both", "before")
    )

    def at(buckets, where):
        return buckets[np.asarray(where) + 5000].tolist()

    assert at(both, range(0, -8, -1)) == list(range(8))
    assert at(both, range(1, 8)) == list(range(17, 24))
    assert at(before, range(0, -16, -1)) == list(range(16))
    assert not before[5000:].any()
    for away, single, buckets in ((20, 8, both), (100, 8, both), (50, 16, before)):
        want = single + int(np.log(away / single) / np.log(128 / single) * single)
        assert at(buckets, [-away]) == [want]
    assert at(both, [-128, -5000, 128, 5000]) == [15, 15, 31, 31]
    assert at(before, [-128, -5000]) == [31, 31]
    assert (np.diff(before[:5000]) <= 0).all()


def test_t5_begins_as_published():
    """Standard deviations of mesh-tensorflow's T5: 1 / sqrt(fan in), queries 1 / sqrt(head dim)
    less, embeddings 1."""
    config = Seq2SeqConfig(**T5, vocab=500, embed=128, heads=4, head_dim=64, mlp=400, init_factor=2)
    params = flat(build(config).init(jax.random.key(0)))
    layer = "decoder/layers/"
    for name, std in {
        "embed": 1,
        layer + "attention/q": (128 * 64) ** -0.5,
        layer + "source_attention/k": 128**-0.5,
        layer + "attention/out": 256**-0.5,
        layer + "mlp/up": 128**-0.5,
        layer + "mlp/down": 400**-0.5,
        "encoder/relative_bias/table": 128**-0.5,
    }.items():
        assert float(params[name].std()) == pytest.approx(
            2 * std, rel=0.3 if "bias" in name else 0.02
        )
    assert (params["decoder/norm/scale"] == 1).all()


def test_suffixes_are_kept(made):
    model, params = made
    with checked(Path(models.__file__).parent):
        jax.eval_shape(lambda p: model.apply(p, packed_and_alone()[0], hidden=True), params)
        cache = jax.eval_shape(lambda p: model.encode(p, plain(), 12), params)
        tokens = {"tokens": plain()["tokens"]}
        jax.eval_shape(lambda p, cache: model.decode(p, cache, tokens), params, cache)


def test_what_has_no_table_row_is_refused():
    model = build(FAMILIES["learned"])
    params = params_of(model)
    with pytest.raises(ValueError, match="37 tokens exceed the model's 36 positions"):
        model.apply(params, plain(source=37))
    with pytest.raises(ValueError, match="source run from 64"):
        model.apply(params, plain() | {"source": np.full((2, 4), 64, np.int32)})
    cache = jax.eval_shape(lambda p: model.encode(p, plain(), 3), params)
    with pytest.raises(ValueError, match="7 tokens do not fit a cache of 3"):
        jax.eval_shape(model.decode, params, cache, {"tokens": plain()["tokens"]})
    t5 = build(FAMILIES["t5"])  # has no longest row
    jax.eval_shape(lambda p: t5.apply(p, plain(source=700)), params_of(t5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 0}, "heads must be at least 1"),
        ({"mlp_dropout": 1.0}, "mlp_dropout must be at least 0 and below 1"),
        ({"start": 256}, "start 256 is no id"),
        ({"epsilon": 0.0}, "must be positive"),
        ({"position_encoding": "learned"}, "learned needs model.positions"),
        ({"positions": 64}, "positions 64 has no effect with position_encoding sinusoidal"),
        ({"embed": 33}, "embed 33 must be even"),
        ({"relative_buckets": 32}, "need position_encoding relative"),
        (T5 | {"relative_buckets": 3}, "must be at least 4"),
        (T5 | {"relative_distance": 4}, "more than half of them"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(Seq2SeqConfig(**fields))
