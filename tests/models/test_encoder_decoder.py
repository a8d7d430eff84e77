"""Joined encoders and decoders: packing, padding, caching, sharing, counts, what is refused."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pack_reader import flat
from seq2seq_families import packed_and_alone
from suffixes import checked

from gesso import models
from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig, build
from gesso.models.count import flops_per_token, parameters
from gesso.pretrain.experiment import Experiment, from_json, to_json

SHAPE = {"vocab": 64, "positions": 48, "embed": 32, "heads": 4, "mlp": 64}
WIDE = SHAPE | {"embed": 48, "mlp": 80, "layers": 3}
LARGE = {"init_std": 0.2}  # weights large enough for differences to show
BERT2BERT = EncoderDecoderConfig(
    encoder=BERTConfig(**WIDE, **LARGE, outputs=("pooler",)),
    decoder=BERTConfig(**SHAPE, **LARGE, head="untied"),
)
SHARED = EncoderDecoderConfig(
    encoder=BERTConfig(**SHAPE, **LARGE),
    decoder=BERTConfig(**SHAPE, **LARGE),
    tie="encoder_decoder",
)
BERT2GPT = EncoderDecoderConfig(
    encoder=BERTConfig(**WIDE, **LARGE, outputs=()),
    decoder=GPTConfig(
        **SHAPE,
        **LARGE,
        layers=4,
        pattern=("global", "local"),
        window=4,
        residual_init="depth",
        attention_scale="head_dim_and_layer",
    ),
)
KINDS = {"bert2bert": BERT2BERT, "shared": SHARED, "bert2gpt": BERT2GPT}


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def made(kind):
    model = build(KINDS[kind])
    return model, model.init(jax.random.key(0)), jax.jit(model.apply)


def rows_of_two():
    """Two rows, with padding behind one source and before one target."""
    generator = np.random.default_rng(1)
    source, tokens = (generator.integers(0, 64, (2, n)).astype(np.int32) for n in (9, 7))
    return {
        "source": source,
        "source_segments": np.array([[1] * 9, [1] * 5 + [0] * 4], np.int32),
        "tokens": tokens,
        "segments": np.array([[1] * 7, [0, 0] + [1] * 5], np.int32),
        "positions": np.maximum(np.arange(7)[None] - [[0], [2]], 0).astype(np.int32),
    }


@pytest.mark.parametrize("kind", ["bert2bert", "bert2gpt"])
def test_packed_equals_unpacked(kind):
    """Logits and gradients: a text reads its own source and no other. The rows have padding, and
    some nothing else."""
    model, params, _ = made(kind)

    @jax.jit
    def both(params, batch):
        def loss(params):
            logits = model.apply(params, batch)["logits"]
            return jnp.sum(jax.nn.log_softmax(logits)[..., 3] * (batch["segments"] > 0)), logits

        return jax.grad(loss, has_aux=True)(params)

    packed, alone = packed_and_alone()
    # A row's pieces count from 1 wherever they stand.
    (gradient, logits), (want_gradient, want) = both(params, packed), both(params, alone)
    for number in (1, 2, 3):
        ours = logits[0][packed["segments"][0] == number]
        theirs = want[number - 1][alone["segments"][number - 1] == 1]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(want).max())
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=3e-5 * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_equals_the_full_forward(kind):
    """The source is read once; 4 tokens follow, then one at a time; one row is left-padded."""
    model, params, apply = made(kind)
    batch = rows_of_two()
    full = np.asarray(apply(params, batch)["logits"])
    cache = jax.jit(model.encode, static_argnums=2)(params, batch, 9)
    decode, got, at = jax.jit(model.decode), [], 0
    for n in (4, 1, 1, 1):
        names = ("tokens", "segments", "positions")
        part = {name: batch[name][:, at : at + n] for name in names}
        logits, cache = decode(params, cache, part)
        got.append(logits)
        at += n
    seen, got = batch["segments"] > 0, np.concatenate(got, axis=1)
    np.testing.assert_allclose(got[seen], full[seen], rtol=0, atol=2e-5 * np.abs(full).max())
    assert int(cache.written.length) == 7
    with pytest.raises(ValueError, match="10 tokens do not fit a cache of 9"):
        model.decode(params, cache, {"tokens": np.zeros((2, 10), np.int32)})


@pytest.mark.parametrize("kind", KINDS)
def test_who_sees_what(kind):
    """No token sees a later one; every token sees its whole source, and no place of padding."""
    _, params, apply = made(kind)
    batch = rows_of_two()
    before = np.asarray(apply(params, batch)["logits"])

    def moved(leaf, row, place):
        changed = batch[leaf].copy()
        changed[row, place] = (changed[row, place] + 1) % 64
        after = np.asarray(apply(params, {**batch, leaf: changed})["logits"])
        return (before != after).any(axis=-1)[row]

    assert moved("source", 0, 8).all() and moved("source", 1, 4)[2:].all()
    assert not moved("source", 1, 7)[2:].any()
    assert (moved("tokens", 0, 4) == (np.arange(7) >= 4)).all()


def test_sides_are_their_families_own_models():
    """A side's parameters are those of the model trained alone; its outputs are, too."""
    config = BERT2GPT
    model, params, _ = made("bert2gpt")
    encoder, decoder = build(config.encoder), build(config.decoder)
    assert flat(model.letters["encoder"]) == flat(encoder.letters)
    assert flat(model.letters["decoder"]) == flat(decoder.letters)
    params = {**params, "encoder": encoder.init(jax.random.key(5))}
    params["decoder"] = decoder.init(jax.random.key(6))
    silent = {"out": 0, "out_bias": 0}
    attention = {name: x * silent.get(name, 1) for name, x in params["source"]["attention"].items()}
    params["source"] = {**params["source"], "attention": attention}
    tokens, source = np.arange(14).reshape(2, 7) % 64, np.arange(18).reshape(2, 9) % 64
    joined, writer, reader = (
        jax.jit(functools.partial(each.apply, hidden=True)) for each in (model, decoder, encoder)
    )
    out = joined(params, {"tokens": tokens, "source": source})
    alone = writer(params["decoder"], {"tokens": tokens})
    for name in ("logits", "hidden"):
        np.testing.assert_allclose(out[name], alone[name], atol=1e-5)
    read = reader(params["encoder"], {"tokens": source})["hidden"]
    np.testing.assert_allclose(out["encoder_hidden"], read, atol=1e-5)


def test_dropout_is_in_the_key_alone():
    """Of the encoder, of the decoder, and in attention to the source."""
    _, params, apply = made("shared")
    batch = {"tokens": np.ones((1, 7), np.int32), "source": np.ones((1, 9), np.int32)}
    plain = apply(params, batch)["logits"]
    side = dataclasses.replace(SHARED.encoder, attention_dropout=0.3, residual_dropout=0.3)
    config = dataclasses.replace(SHARED, encoder=side, decoder=side)
    assert config.drops and not SHARED.drops
    dropping = jax.jit(build(config).apply)
    one, same, other = (dropping(params, batch, jax.random.key(i))["logits"] for i in (1, 1, 2))
    assert (one == same).all() and (one != other).any() and (one != plain).any()


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_what_is_built(kind):
    config = KINDS[kind]
    params = jax.eval_shape(build(config).init, jax.random.key(0))
    counted = parameters(config)
    assert counted["total"] == sum(x.size for x in jax.tree.leaves(params))
    looked_up = [
        x
        for name, x in flat(params).items()
        if name.endswith(("embed", "positions", "token_types"))
    ]
    assert counted["embedding"] == sum(x.size for x in looked_up)


def test_flops_are_those_of_the_compiled_program():
    """Unrolled, with dense attention, whose masked half is counted by XLA and not by us. What is
    left over is elementwise work."""
    length = 64
    wide = {"vocab": 2048, "positions": length, "heads": 4, "attention": "dense", "unroll": 2}
    config = EncoderDecoderConfig(
        encoder=BERTConfig(**wide, embed=384, mlp=1024, outputs=()),
        decoder=BERTConfig(**wide, embed=256, mlp=1024),
    )
    model, tokens = build(config), jax.ShapeDtypeStruct((2, length), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params, tokens):
        return model.apply(params, {"tokens": tokens, "source": tokens})["logits"].mean()

    executed = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).cost_analysis()["flops"]
    masked = 6 * config.decoder.layers * config.decoder.embed * length / 2
    counted = 2 * 2 * length * (flops_per_token(config, length) + masked)
    assert 1 <= executed / counted < 1.06


def test_suffixes_are_kept():
    model, params, _ = made("bert2gpt")
    batch, _ = packed_and_alone()
    cache = jax.eval_shape(lambda p: model.encode(p, batch, 28), params)
    written = {name: batch[name] for name in ("tokens", "segments", "positions")}
    with checked(Path(models.__file__).parent):
        jax.eval_shape(lambda p: model.apply(p, batch, jax.random.key(1), hidden=True), params)
        jax.eval_shape(model.decode, params, cache, written)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_gives_the_config_back(kind):
    experiment = Experiment(name="joined", model=KINDS[kind])
    assert from_json(to_json(experiment)) == experiment


PARALLEL = GPTConfig(**SHAPE, block="parallel")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder": PARALLEL}, "model.decoder.block parallel has no place for cross-attention"),
        ({"decoder": BERTConfig(embed=30)}, "model.decoder.embed 30 does not divide"),
        ({"encoder": BERTConfig(embed=30)}, "model.encoder.embed 30 does not divide"),
        ({"decoder": BERTConfig(outputs=("span",))}, "model.decoder.outputs must be"),
        ({"encoder": BERTConfig(outputs=("mlm",))}, "model.encoder.outputs .* only"),
        ({"tie": "encoder_decoder"}, "needs model.encoder and model.decoder to be equal"),
        ({"start": 64}, "model.start 64 is no id of a vocab of 64"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(BERT2BERT, **fields))
