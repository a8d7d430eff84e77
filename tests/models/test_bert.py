"""The encoder's own properties: packing, padding, what sees what, its heads, what it refuses."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suffixes import checked

from gesso import models
from gesso.models import BERTConfig, build
from gesso.models.count import flops_per_token, parameters
from gesso.models.layers.kernels import cudnn, dense

SHAPE = {"vocab": 64, "positions": 48, "embed": 32, "heads": 4, "mlp": 64}
ALL = BERTConfig(**SHAPE, outputs=("mlm", "nsp", "classify", "tag", "span"), labels=3)
ROBERTA = BERTConfig(**SHAPE, first_position=2, token_types=0, init="normal", head="untied")
LENGTHS = (7, 12, 9)


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def made(config):
    """The model with weights large enough for differences to show, and its `apply`."""
    model = build(dataclasses.replace(config, init_std=0.3))
    return model, model.init(jax.random.key(0)), jax.jit(model.apply)


def packed_and_alone():
    """Three texts in one row with padding behind; and the same, one to a row. Equal shapes."""
    generator = np.random.default_rng(0)
    names = ("tokens", "segments", "positions", "token_types")
    packed, alone = ({name: np.zeros((3, 36), np.int32) for name in names} for _ in range(2))
    start = 0
    for number, n in enumerate(LENGTHS):
        tokens, types = generator.integers(0, 64, n), np.arange(n) > n // 2
        for name, value in zip(names, (tokens, number + 1, np.arange(n), types), strict=True):
            packed[name][0, start : start + n] = value
            alone[name][number, :n] = value
        start += n
    firsts = np.zeros((3, 3), np.int32)
    firsts[0] = np.cumsum((0, *LENGTHS[:-1]))
    return packed | {"firsts": firsts}, alone | {"firsts": np.zeros((3, 3), np.int32)}


@pytest.mark.parametrize("config", [ALL, ROBERTA], ids=["bert", "roberta"])
def test_packed_equals_unpacked(config, monkeypatch):
    """All outputs, pooled at each text's own first token, and gradients; texts begin and end
    inside blocks of attention."""
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 8)
    model, params, _ = made(config)

    @jax.jit
    def both(params, batch, weight_BP):
        def loss(params):
            module = model.merge(params)
            x_BLD = module.features(batch)
            of_tokens, of_texts = [module.logits(x_BLD)], []
            if config.pools:
                x_BPD = jnp.take_along_axis(x_BLD, batch["firsts"][..., None], axis=1)
                of_tokens += [module.tag(x_BLD), module.answer_span(x_BLD)]
                of_texts = [module.next_sentence(x_BPD), module.classify(x_BPD)]
            total = sum(jnp.sum(y[..., 1] ** 2 * (batch["segments"] > 0)) for y in of_tokens)
            total += sum(jnp.sum(y[..., 1] ** 2 * weight_BP) for y in of_texts)
            return total, (of_tokens, of_texts)

        return jax.grad(loss, has_aux=True)(params)

    packed, alone = packed_and_alone()
    in_row, to_row = (np.zeros((3, 3), np.float32) for _ in range(2))
    in_row[0], to_row[:, 0] = 1, 1
    gradient, (tokens, texts) = both(params, packed, in_row)
    want_gradient, (want_tokens, want_texts) = both(params, alone, to_row)
    for ours, theirs in zip(tokens, want_tokens, strict=True):
        for number in (1, 2, 3):
            x, y = ours[packed["segments"] == number], theirs[alone["segments"] == number]
            np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * np.abs(theirs).max())
    for ours, theirs in zip(texts, want_texts, strict=True):
        np.testing.assert_allclose(ours[0], theirs[:, 0], atol=2e-5 * np.abs(theirs).max())
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=3e-5 * largest)


def test_a_token_sees_its_whole_text_and_no_other():
    _, params, apply = made(ALL)
    batch, _ = packed_and_alone()
    changed = {name: leaf.copy() for name, leaf in batch.items()}
    changed["tokens"][0, [9, 30]] = (batch["tokens"][0, [9, 30]] + 1) % 64  # text 2 and padding
    before, after = (apply(params, each)["logits"][0] for each in (batch, changed))
    moved, segments = (before != after).any(axis=-1), batch["segments"][0]
    assert moved[segments == 2].all() and not moved[(segments == 1) | (segments == 3)].any()


@pytest.mark.parametrize("change", [{"attention": "dense"}, {"remat": "full", "unroll": 2}])
def test_how_it_is_computed_changes_nothing(change, monkeypatch):
    monkeypatch.setattr("gesso.models.layers.kernels.BLOCK", 16)
    _, params, _ = made(ALL)
    batch, _ = packed_and_alone()
    configs = [dataclasses.replace(ALL, init_std=0.3, **each) for each in ({}, change)]
    plain, other = (jax.jit(build(each).apply)(params, batch) for each in configs)
    for name, want in plain.items():
        np.testing.assert_allclose(other[name], want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_cudnn_is_asked_for_the_same(monkeypatch):
    """Its kernel needs a GPU; what it is asked for is computed here by XLA. Rows of padding alone
    stay finite."""
    attend = jax.nn.dot_product_attention

    def on_any_device(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return attend(*arrays, implementation="xla", **options)

    monkeypatch.setattr("jax.nn.dot_product_attention", on_any_device)
    shape, segments = (3, 36, 2, 8), packed_and_alone()[0]["segments"]
    q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    same = {"segments_BL": segments, "window": None, "padding": "row", "direction": "both"}
    same |= {"scale": 8**-0.5, "logits": "float32"}
    ours = cudnn(q, k, v, **same).astype(jnp.float32)
    want = dense(q, k, v, **same).astype(jnp.float32)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[0], want[0], rtol=0, atol=2**-7 * np.abs(want).max())


def test_heads_at_some_places_are_those_of_the_whole_row():
    model, params, apply = made(ALL)
    batch, _ = packed_and_alone()
    out, places = apply(params, batch), np.array([[3, 20, 5], [0, 0, 0], [1, 2, 35]])
    module = model.merge(params)

    def at(x):
        return jnp.take_along_axis(x, places[..., None], axis=1)

    h_BMD, table_VD, bias_V = module.predict(at(out["features"]))
    logits = jnp.einsum("BMD,VD->BMV", h_BMD, table_VD) + bias_V
    np.testing.assert_allclose(logits, at(out["logits"]), rtol=1e-5, atol=1e-5)
    first_BPD = out["features"][:, :1]
    np.testing.assert_allclose(module.pool(first_BPD)[:, 0], out["pooled"], atol=1e-6)
    np.testing.assert_allclose(
        module.next_sentence(first_BPD)[:, 0], out["next_sentence"], atol=1e-5
    )
    assert {name: x.dtype for name, x in out.items()} == dict.fromkeys(out, jnp.float32)


def test_rows_of_padding_alone_are_finite_in_bfloat16():
    """In float32 too: packing's test has two such rows."""
    model, params, _ = made(ALL)
    batch, _ = packed_and_alone()
    batch = {name: leaf.copy() for name, leaf in batch.items()}
    batch["segments"][1:] = 0

    def loss(params):
        out = model.apply(jax.tree.map(lambda each: each.astype(jnp.bfloat16), params), batch)
        return sum(jnp.sum(jnp.square(each.astype(jnp.float32))) for each in out.values())

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_dropout_is_in_the_key_alone():
    model, params, apply = made(ALL)
    batch = {name: leaf[:1, :16] for name, leaf in packed_and_alone()[1].items()}
    plain = apply(params, batch)
    everywhere = dict.fromkeys(("embedding", "attention", "residual"), 0.5)
    for rates in (everywhere, {"head": 0.5}):
        rates = {f"{name}_dropout": rate for name, rate in rates.items()}
        config = dataclasses.replace(model.config, **rates)
        assert config.drops and not model.config.drops
        assert all(getattr(config.blocks, name) == 0.5 for name in rates if "head" not in name)
        dropping = jax.jit(build(config).apply)
        one, same, other = (dropping(params, batch, jax.random.key(i)) for i in (1, 1, 2))
        for name in ("labels", "tags"):
            assert (one[name] == same[name]).all() and (one[name] != other[name]).any()
        assert (one["features"] == plain["features"]).all() == ("head_dropout" in rates)


OUTPUTS = {
    (): set(),
    ("mlm",): {"logits"},
    ("pooler",): {"pooled"},
    ("mlm", "nsp"): {"logits", "pooled", "next_sentence"},
    ("classify",): {"pooled", "labels"},
    ("tag",): {"tags"},
    ("span",): {"start", "end"},
}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("base", [ALL, ROBERTA], ids=["bert", "roberta"])
def test_a_model_has_the_heads_it_names(base, outputs):
    labels = 3 if {"classify", "tag"} & set(outputs) else 0
    head = base.head if "mlm" in outputs else "tied"
    config = dataclasses.replace(base, outputs=outputs, labels=labels, head=head, mlp=48)
    model = build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {"tokens": jnp.ones((2, 5), jnp.int32), "token_types": jnp.ones((2, 5), jnp.int32)}
    out = jax.eval_shape(lambda p: model.apply(p, batch, hidden=True), params)
    assert out.keys() == OUTPUTS[outputs] | {"features", "hidden"}
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    counted, looked_up = parameters(config), ("embed", "positions", "token_types")
    assert counted["total"] == count
    assert counted["embedding"] == sum(params[n].size for n in looked_up if n in params)
    for name, call in (("nsp", "next_sentence"), ("mlm", "logits"), ("span", "answer_span")):
        if name not in outputs:
            x = jnp.ones((2, 5, 32))
            with pytest.raises(ValueError, match=f"no '({name}|pooler)'"):
                jax.eval_shape(lambda p, x=x, call=call: getattr(model.merge(p), call)(x), params)


def test_flops_are_those_of_the_compiled_program():
    """Of dense attention and unrolled layers, with every place predicted; what is left over is
    elementwise work."""
    length, wide = 64, {"embed": 256, "mlp": 1024, "vocab": 2048, "positions": 64}
    config = dataclasses.replace(ALL, **wide, outputs=("mlm",), labels=0, attention="dense")
    config = dataclasses.replace(config, unroll=2)
    model, tokens = build(config), jax.ShapeDtypeStruct((2, length), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params, tokens):
        return model.apply(params, {"tokens": tokens})["logits"].mean()

    executed = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).cost_analysis()["flops"]
    unpredicted = 0.85 * 6 * 256 * (256 + 2048)
    assert 1 <= executed / (2 * length * (flops_per_token(config, length) + unpredicted)) < 1.06


def test_positions_and_token_types():
    """RoBERTa's first token has row 2; types are 0 where the batch has none."""
    _, params, apply = made(ROBERTA)
    tokens = packed_and_alone()[1]["tokens"]
    plain = apply(params, {"tokens": tokens})["logits"]
    shifted = {**params, "positions": np.roll(params["positions"], -2, axis=0)}
    zero = jax.jit(build(dataclasses.replace(ROBERTA, init_std=0.3, first_position=0)).apply)
    assert (zero(shifted, {"tokens": tokens})["logits"] == plain).all()
    with pytest.raises(ValueError, match="rows of 47 tokens exceed the model's 46"):
        apply(params, {"tokens": np.zeros((1, 47), np.int32)})
    _, params, apply = made(ALL)
    plain, zeros, ones = (
        apply(params, {"tokens": tokens, **types})["logits"]
        for types in (
            {},
            {"token_types": np.zeros_like(tokens)},
            {"token_types": np.ones_like(tokens)},
        )
    )
    assert (plain == zeros).all() and (plain != ones).any()


def test_weights_are_drawn_as_published():
    for config in (ALL, ROBERTA):
        params = build(config).init(jax.random.key(0))
        drawn = np.concatenate(
            [
                np.ravel(params["embed"]),
                *(np.ravel(x) for x in jax.tree.leaves(params["blocks"]["mlp"]) if x.ndim == 3),
            ]
        )
        if config.init == "truncated":  # at 2, what is left of a normal has a spread of 0.88
            assert np.abs(drawn).max() <= 0.04 and abs(drawn.std() / 0.02 - 0.8796) < 0.02
        else:
            assert np.abs(drawn).max() > 0.05 and abs(drawn.std() / 0.02 - 1) < 0.02


def test_suffixes_are_kept():
    model, params, _ = made(ALL)
    batch, _ = packed_and_alone()
    with checked(Path(models.__file__).parent):
        jax.eval_shape(lambda p: model.apply(p, batch, jax.random.key(1), hidden=True), params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed": 30}, "model.embed 30 does not divide over 4 heads"),
        ({"first_position": 48}, "leaves no row of the 48 positions"),
        ({"token_types": -1}, "token_types must be at least 0"),
        ({"outputs": ("mlm", "mlm"), "labels": 0}, "names one twice"),
        ({"labels": 0}, 'model.labels 0 .* "classify" and "tag" have at least 1'),
        ({"outputs": ("mlm",)}, "model.labels 3 .* contradict"),
        ({"outputs": ("span",), "labels": 0, "head": "untied"}, "head untied has no effect"),
        ({"outputs": ("span",), "labels": 0, "head_dropout": 0.1}, "head_dropout 0.1 has no"),
        ({"head_dropout": 1.0}, "head_dropout must be at least 0 and below 1"),
        ({"attention": "cudnn", "attention_dropout": 0.1}, "cudnn has no attention_dropout"),
        ({"epsilon": 0.0}, "must be positive"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(ALL, **fields))


@pytest.mark.parametrize(
    ("vocab", "fields", "count"),
    [
        (30522, {"positions": 512, "outputs": ("pooler",)}, 109_482_240),
        (30522, {"positions": 512, "outputs": ("mlm", "nsp")}, 110_106_428),
        (50265, {"positions": 514, "token_types": 1}, 124_697_433),
    ],
    ids=["bert-base", "bert-base-pretraining", "roberta-base"],
)
def test_published_models_have_the_published_parameters(vocab, fields, count):
    config = BERTConfig(vocab=vocab, layers=12, embed=768, heads=12, mlp=3072, **fields)
    params = jax.eval_shape(build(config).init, jax.random.key(0))
    assert parameters(config)["total"] == sum(x.size for x in jax.tree.leaves(params)) == count
