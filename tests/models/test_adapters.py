"""Adapters against the equations they stand for: no effect at first, closed forms, packed rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.models import build
from gesso.models.adapters.adapters import (
    AdapterError,
    adapter_problems,
    bind,
    init,
    letters_of,
    targets,
)
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import merge
from gesso.models.config import BERTConfig, EncoderDecoderConfig, GPTConfig, Seq2SeqConfig
from gesso.models.trees import flat

GPT = GPTConfig(vocab=64, positions=40, layers=2, embed=16, heads=2, mlp=32)
BERT = BERTConfig(vocab=64, positions=40, layers=2, embed=16, heads=2, mlp=32, outputs=("mlm",))
T5 = Seq2SeqConfig(
    vocab=64, encoder_layers=2, decoder_layers=2, embed=16, heads=2, head_dim=8, mlp=32
)
TWO = EncoderDecoderConfig(encoder=dataclasses.replace(BERT, outputs=()), decoder=GPT)
MODELS = {"gpt": GPT, "bert": BERT, "seq2seq": T5, "encoder_decoder": TWO}
TOKENS = np.random.default_rng(0).integers(8, 64, (2, 12))


@functools.cache
def made(config):
    model = build(config)
    return model, jax.jit(model.init)(jax.random.key(0))


@functools.cache
def compiled(config, hidden=False):
    return jax.jit(functools.partial(made(config)[0].apply, hidden=hidden))


def outputs(model, params, tokens=TOKENS, **leaves):
    source = {"source": TOKENS} if model.has_encoder else {}
    batch = {"tokens": tokens, **source, **leaves}
    return compiled(model.config)(params, batch)["logits"]


def moved(adapter, by=0.05):
    """An adapter as after some training: every number somewhere else."""
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noise = [x + by * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noise)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("gpt", "lora"),
        ("gpt", "ia3"),
        pytest.param("bert", "lora", marks=slow),
        pytest.param("bert", "ia3", marks=slow),
        ("seq2seq", "lora"),
        pytest.param("seq2seq", "ia3", marks=slow),
        pytest.param("encoder_decoder", "lora", marks=slow),
        pytest.param("encoder_decoder", "ia3", marks=slow),
    ],
)
def test_at_first_it_changes_nothing_and_merged_it_is_what_it_was_bound(family, kind):
    model, params = made(MODELS[family])
    config = AdapterConfig(kind=kind)
    adapter = init(config, jax.random.key(1), params, model.letters)
    plain = outputs(model, params)
    np.testing.assert_array_equal(outputs(model, bind(params, adapter, config)), plain)
    spelled = flat(letters_of(config, model.letters))
    shapes = {name: x.ndim for name, x in flat(adapter).items()}
    assert shapes == {name: len(each) for name, each in spelled.items()}
    trained = moved(adapter, by=0.3)
    bound = bind(params, trained, config)
    ours = outputs(model, bound)
    assert np.abs(ours - plain).max() > 3e-4
    merged = merge(params, trained, config, model.letters)
    # float32 rounding of sums taken in another order
    np.testing.assert_allclose(outputs(model, merged.params), ours, atol=2e-5)
    assert jax.tree.structure(model.letters_of(bound)) == jax.tree.structure(bound)


@pytest.mark.parametrize("scaling", ["rank", "sqrt_rank"])
def test_one_product_is_the_paper_s(scaling):
    from gesso.models.layers.operators import LowRank
    from gesso.partitioning.axes import einsum

    config = AdapterConfig(kind="lora", rank=4, alpha=12, scaling=scaling)
    assert config.scale == {"rank": 3, "sqrt_rank": 6}[scaling]
    x, w, a, b = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(0), 4),
            [(2, 3, 4, 8), (4, 8, 6), (4, 8, 4), (4, 6)],
            strict=True,
        )
    )
    ours = einsum("BLNH,NHD->BLD", x, LowRank(w, a, b, None, config.scale, 0.0))
    flat_x = x.reshape(2, 3, 32)
    theirs = flat_x @ w.reshape(32, 6) + config.scale * (flat_x @ a.reshape(32, 4)) @ b
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_is_uniform_within_the_root_of_its_inputs():
    model, params = made(GPT)
    config = AdapterConfig(kind="lora", rank=32, targets=("*attention/q", "*mlp/down"))
    drawn = flat(init(config, jax.random.key(1), params, model.letters))
    for name, inputs in (("attention/q", 16), ("mlp/down", 32)):
        a = np.asarray(drawn[f"blocks/{name}/a"])
        assert 0.95 * inputs**-0.5 < np.abs(a).max() <= inputs**-0.5
        assert not np.asarray(drawn[f"blocks/{name}/b"]).any()
        assert (a[0] != a[1]).mean() > 0.99, "layers are drawn apart"


def test_dropout_is_of_what_the_adapter_reads_alone():
    model, params = made(GPT)
    config = AdapterConfig(kind="lora", dropout=0.5)
    adapter = init(config, jax.random.key(1), params, model.letters)
    first = outputs(model, bind(params, adapter, config, jax.random.key(3)))
    np.testing.assert_array_equal(first, outputs(model, params))
    trained = moved(adapter)
    one, two = (outputs(model, bind(params, trained, config, jax.random.key(k))) for k in (3, 4))
    assert np.abs(one - two).max() > 1e-4
    with_no_key = outputs(model, bind(params, trained, config))
    np.testing.assert_array_equal(with_no_key, outputs(model, bind(params, trained, config, None)))


def test_words_are_adapted_where_they_are_looked_up():
    model, params = made(dataclasses.replace(GPT, head="untied"))
    config = AdapterConfig(kind="lora", targets=("embed",))
    adapter = init(config, jax.random.key(1), params, model.letters)
    np.testing.assert_array_equal(
        outputs(model, bind(params, adapter, config)), outputs(model, params)
    )
    trained = moved(adapter)
    merged = merge(params, trained, config, model.letters).params
    ours = outputs(model, bind(params, trained, config))
    np.testing.assert_allclose(outputs(model, merged), ours, atol=2e-5)
    tied = build(GPT)
    assert "untie them" in adapter_problems(config, GPT, tied.letters)[0]
    assert not adapter_problems(config, model.config, model.letters)


def test_a_merge_counts_what_the_dtype_rounds_away():
    model, params = made(GPT)
    config = AdapterConfig(kind="lora")
    adapter = moved(init(config, jax.random.key(1), params, model.letters), by=1e-5)
    whole = merge(params, adapter, config, model.letters)
    assert whole.lost_share < 0.01
    rounded = merge(params, adapter, config, model.letters, dtype="bfloat16")
    assert 0.3 < rounded.lost_share < 1
    q = whole.params["blocks"]["attention"]["q"]
    base = np.asarray(params["blocks"]["attention"]["q"])
    kept = rounded.params["blocks"]["attention"]["q"]
    name = "blocks/attention/q"
    assert rounded.lost[name] == ((kept == base.astype("bfloat16")) & (q != base)).sum()
    assert rounded.changed[name] == (q != base).sum()


PROMPTS = [
    ("prompt", "none"),
    pytest.param("prompt", "mlp", marks=slow),
    pytest.param("prompt", "lstm", marks=slow),
    pytest.param("prefix", "none", marks=slow),
    ("prefix", "mlp"),
]


@pytest.mark.parametrize(("kind", "made_by"), PROMPTS)
def test_each_document_of_a_packed_row_has_its_own_virtual_tokens(kind, made_by):
    model, params = made(
        dataclasses.replace(
            GPT, pattern=("global", "local"), window=7, position_encoding="rotary", rotary_dims=8
        )
    )
    config = AdapterConfig(kind=kind, tokens=4, reparametrize=made_by)
    adapter = moved(init(config, jax.random.key(1), params, model.letters))
    bound = bind(params, adapter, config)
    whole = outputs(model, bound)
    assert np.abs(whole - outputs(model, params)).max() > 1e-3
    packed = TOKENS[:1].copy()
    packed[:, 5:] = TOKENS[1, :7]
    row = {
        "segments": np.array([[1] * 5 + [2] * 7]),
        "positions": np.array([[*range(5), *range(7)]]),
    }
    both = outputs(model, bound, packed, **row)
    # float32 rounding: sums over rows of another length
    np.testing.assert_allclose(both[0, :5], whole[0, :5], atol=2e-5)
    np.testing.assert_allclose(both[0, 5:], whole[1, :7], atol=2e-5)


def test_a_prompt_is_tokens_in_front_of_the_text():
    model, params = made(GPT)
    words = np.random.default_rng(1).integers(8, 64, 5)
    prompt = {"virtual": params["embed"][words]}
    bound = bind(params, prompt, AdapterConfig(kind="prompt", tokens=5))
    whole = outputs(model, params, np.concatenate([np.tile(words, (2, 1)), TOKENS], axis=1))
    np.testing.assert_allclose(outputs(model, bound), whole[:, 5:], atol=2e-5)


@pytest.mark.parametrize("kind", ["prompt", pytest.param("prefix", marks=slow)])
def test_cached_decoding_is_the_full_forward(kind):
    model, params = made(GPT)
    config = AdapterConfig(kind=kind, tokens=3)
    bound = bind(params, init(config, jax.random.key(1), params, model.letters), config)
    cache = model.init_cache(2, 12)
    parts, decode = [], jax.jit(model.decode)
    for start, end in ((0, 6), (6, 12)):
        logits, cache = decode(bound, cache, {"tokens": TOKENS[:, start:end]})
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), outputs(model, bound), atol=2e-5)
    with pytest.raises(ValueError, match="rows of 38 tokens exceed the model's 37 positions"):
        model.apply(bound, {"tokens": np.zeros((1, 38), np.int32)})


@pytest.mark.parametrize(
    "family",
    [
        "gpt",
        pytest.param("bert", marks=slow),
        pytest.param("encoder_decoder", marks=slow),
        pytest.param("seq2seq", marks=slow),
    ],
)
def test_placeholders_read_the_virtual_tokens_in_their_order(family):
    model, params = made(MODELS[family])
    config = AdapterConfig(kind="p_tuning", tokens=3, placeholder=1)
    name = "encoder" if family == "encoder_decoder" else ""
    table = params[name]["embed"] if name else params["embed"]
    adapter = {"virtual": table[jnp.array([40, 41, 42])]}
    text, plain = TOKENS.copy(), TOKENS.copy()
    segments = np.array([[1] * 6 + [2] * 6, [3] * 12])
    for row, places in ((0, [1, 2, 4]), (0, [6, 9]), (1, [0, 5, 11])):
        text[row, places] = 1
        plain[row, places] = [40, 41, 42][: len(places)]
    bound = bind(params, adapter, config)
    kinds = ("source", "source_segments") if model.has_encoder else ("tokens", "segments")

    def of(params, tokens):
        batch = {"tokens": TOKENS, kinds[0]: tokens, kinds[1]: segments}
        return compiled(model.config)(params, batch)["logits"]

    np.testing.assert_allclose(of(bound, text), of(params, plain), atol=2e-5)
    text[1, 3] = 1  # a fourth, of which there is no virtual token
    assert np.isnan(of(bound, text)[1]).any()


@pytest.mark.parametrize("family", [pytest.param("bert", marks=slow), "seq2seq"])
def test_focus_vectors_move_what_is_marked(family):
    model, params = made(MODELS[family])
    config = AdapterConfig(kind="focus", marks=(2, 3))
    adapter = init(config, jax.random.key(1), params, model.letters)
    still = {"scale": adapter["scale"], "shift": jnp.zeros_like(adapter["shift"])}
    text = TOKENS.copy()
    text[:, 4], text[:, 8] = 2, 3
    leaf = "source" if model.has_encoder else "tokens"

    def hidden(params, text=text):
        given = compiled(model.config, hidden=True)(params, {"tokens": TOKENS, leaf: text})
        return given["encoder_hidden" if model.has_encoder else "hidden"]

    np.testing.assert_array_equal(hidden(bind(params, still, config)), hidden(params))
    # Of one class the vectors are every token's: scale and shift by hand on the first layer.
    only = {"scale": still["scale"].at[:, 1].set(2.0), "shift": still["shift"]}
    changed = hidden(bind(params, only, config)) - hidden(params)
    assert np.abs(changed[1]).max() > 1e-3 and not np.asarray(changed[0]).any()
    unmarked = np.where((text == 2) | (text == 3), 9, text)
    np.testing.assert_array_equal(
        hidden(bind(params, only, config), unmarked), hidden(params, unmarked)
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "lora", "targets": ("*attention/qq",)}, "did you mean 'blocks/attention/q'"),
        ({"kind": "lora", "targets": ("norm/scale",)}, "cannot adapt"),
        ({"kind": "lora", "tokens": 4}, "adapter.tokens has no effect on kind 'lora'"),
        ({"kind": "none", "rank": 4}, "choose a kind"),
        ({"kind": "lora", "rank": 0}, "must be at least 1"),
        ({"kind": "p_tuning"}, "adapter.placeholder"),
        ({"kind": "p_tuning", "placeholder": 64}, "over the model's 64"),
        ({"kind": "focus", "marks": (1, 2)}, "not for a model of gpt"),
    ],
)
def test_what_cannot_be_is_refused(settings, told):
    found = adapter_problems(AdapterConfig(**settings), GPT, build(GPT).letters)
    assert found and told in found[0]


def test_a_prompt_for_texts_that_see_both_ways_is_refused():
    found = adapter_problems(AdapterConfig(kind="prompt"), BERT, build(BERT).letters)
    assert "use p_tuning" in found[0]
    with pytest.raises(AdapterError, match="cannot be merged"):
        merge({}, {}, AdapterConfig(kind="prompt"), {})
    assert list(targets(AdapterConfig(kind="lora"), build(T5).letters)) == [
        f"{side}/layers/{each}"
        for side, each in (
            ("decoder", "attention/q"),
            ("decoder", "attention/v"),
            ("decoder", "source_attention/q"),
            ("decoder", "source_attention/v"),
            ("encoder", "attention/q"),
            ("encoder", "attention/v"),
        )
    ]
