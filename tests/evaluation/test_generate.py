"""Generation: equal to the naive loop, alone or in a batch, cached, padded, chunked or streamed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.data.tokenizers.load import load_tokenizer
from gesso.evaluation.generation.decoder import generate
from gesso.evaluation.generation.decoding import restrict
from gesso.evaluation.generation.prompts import PromptError
from gesso.models import BERTConfig, GPTConfig, build
from gesso.partitioning.axes import placements
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

CONFIG = GPTConfig(
    vocab=264,
    positions=96,
    layers=2,
    embed=32,
    heads=2,
    mlp=64,
    pattern=("global", "local"),
    window=7,
    head="untied",
    init_std=0.3,  # far apart: no greedy choice is near a tie, and every token matters
)
PROMPTS = ["def f(", "a considerably longer prompt, of several words", "", "x"]


@pytest.fixture(scope="module")
def made():
    model = build(CONFIG)
    return model, model.init(jax.random.key(0)), load_tokenizer("bytes")


def naive(model, params, tokenizer, prompt, max_tokens):
    """The whole text through the whole model for every token."""
    apply = jax.jit(model.apply)
    ids = list(tokenizer.encode(prompt)) or [tokenizer.eos]
    start = len(ids)
    while len(ids) - start < max_tokens and len(ids) <= CONFIG.positions:
        row = np.zeros((1, CONFIG.positions), np.int32)
        row[0, : len(ids)] = ids
        logits = apply(params, {"tokens": row})["logits"][0, len(ids) - 1, : tokenizer.vocab_size]
        token = int(logits.argmax())
        if token == tokenizer.eos:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


def test_greedy_equals_the_naive_loop_for_prompts_of_different_lengths(made):
    texts = generate(*made, PROMPTS, max_tokens=20)
    assert texts == [naive(*made, prompt, 20) for prompt in PROMPTS]
    assert all(len(set(text)) > 5 for text in texts)


def test_a_row_does_not_depend_on_the_others(made):
    together = generate(*made, PROMPTS, max_tokens=20, temperature=0.9, top_p=0.9, seed=4)
    alone = generate(*made, PROMPTS[:1], max_tokens=20, temperature=0.9, top_p=0.9, seed=4)
    assert together[:1] == alone
    assert together != generate(*made, PROMPTS, max_tokens=20, temperature=0.9, top_p=0.9, seed=5)


def test_streamed_pieces_are_the_text(made):
    pieces = dict.fromkeys(range(len(PROMPTS)), "")
    calls = []

    def stream(row, text):
        calls.append(text)
        pieces[row] += text

    texts = generate(*made, PROMPTS, max_tokens=20, stream=stream)
    assert texts == generate(*made, PROMPTS, max_tokens=20)
    assert [pieces[row] for row in range(len(PROMPTS))] == texts
    assert len(calls) > len(PROMPTS) and all(calls)


def test_it_stops_at_the_end_of_a_document(made):
    model, params, tokenizer = made
    params = {**params, "head_table": params["head_table"].at[tokenizer.eos].set(100.0)}
    params["norm"] = {**params["norm"], "bias": jnp.ones_like(params["norm"]["bias"])}
    assert generate(model, params, tokenizer, PROMPTS, max_tokens=20) == [""] * len(PROMPTS)


@pytest.mark.parametrize("settings", [{}, {"stream": print}, {"beams": 2}])
def test_it_stops_before_a_text(made, settings):
    whole = generate(*made, PROMPTS[:2], max_tokens=20, **settings)
    stops = (whole[0][5:8], "never written")
    if "stream" in settings:
        told = ["", ""]
        settings = {"stream": lambda row, piece: told.__setitem__(row, told[row] + piece)}
    found = generate(*made, PROMPTS[:2], max_tokens=20, stops=stops, **settings)
    assert found == [text.split(stops[0])[0] for text in whole]
    assert len(found[0]) < len(whole[0])
    if "stream" in settings:
        assert told == found


def test_prompts_may_be_ids(made):
    ids = [made[2].encode(prompt).tolist() for prompt in PROMPTS]
    assert generate(*made, ids, max_tokens=8) == generate(*made, PROMPTS, max_tokens=8)


def test_positions_that_begin_later_end_the_text_as_they_do_a_row():
    """OPT's table has rows before that of the first token, which no text can have."""
    config = dataclasses.replace(CONFIG, positions=24, first_position=4)
    model = build(config)
    params, tokenizer = model.init(jax.random.key(0)), load_tokenizer("bytes")
    text = generate(model, params, tokenizer, ["x" * 17], max_tokens=50, temperature=0)[0]
    assert len(text) <= 4  # 17 + 3 fill the positions
    with pytest.raises(PromptError, match="20 positions"):
        generate(model, params, tokenizer, ["x" * 20], max_tokens=1)


def test_it_stops_where_the_positions_end(made):
    text = generate(*made, ["y" * 90], max_tokens=50)[0]
    assert text == naive(*made, "y" * 90, 50)
    assert len(text) == 7  # 90 + 6 fill the positions; what the last one predicts is the seventh


def test_ids_outside_the_tokenizer_are_never_drawn(made):
    model, params, tokenizer = made
    params = {**params, "head_table": params["head_table"].at[tokenizer.vocab_size :].mul(1e3)}
    for temperature in (0.0, 1.5):  # the tokenizer raises for an id it does not have
        texts = generate(model, params, tokenizer, PROMPTS, max_tokens=20, temperature=temperature)
        assert len(texts) == len(PROMPTS)


def test_sharded_params_give_the_same_text(made):
    model, params, tokenizer = made
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placed = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp_tensor"].at_rest, mesh))
    want = generate(*made, PROMPTS, max_tokens=20)
    assert generate(model, placed, tokenizer, PROMPTS, max_tokens=20) == want


def test_restrict_keeps_the_likeliest():
    logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
    kept = lambda **options: np.isfinite(restrict(logits, **options))[0].tolist()  # noqa: E731
    assert kept(top_k=0, top_p=1.0) == [True, True, True, True]
    assert kept(top_k=2, top_p=1.0) == [False, True, False, True]
    assert kept(top_k=0, top_p=0.79) == [False, True, False, True]
    assert kept(top_k=0, top_p=0.81) == [False, True, True, True]
    assert kept(top_k=0, top_p=1e-6) == [False, True, False, False]
    # The share is of what top_k left: 0.5 of 0.8.
    assert kept(top_k=2, top_p=0.6) == [False, True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ["z" * 96]}, "96 positions.*shorten it to 95"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 5}, "no effect at temperature 0"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_refused(made, settings, message):
    settings = {"prompts": ["a"], "max_tokens": 5} | settings
    with pytest.raises(ValueError, match=message):
        generate(*made, **settings)
    assert issubclass(PromptError, ValueError)


def test_a_larger_tokenizer_is_refused(made):
    small = build(GPTConfig(vocab=200))
    with pytest.raises(ValueError, match="257 ids and the model 200"):
        generate(small, small.init(jax.random.key(0)), made[2], ["a"], max_tokens=1)


def test_a_model_that_only_reads_is_refused(made):
    encoder = build(BERTConfig(vocab=300, embed=8, heads=2, mlp=8, layers=1))
    with pytest.raises(ValueError, match="a bert model reads text and writes none"):
        generate(encoder, {}, made[2], ["a"], max_tokens=1)


def test_no_prompts_no_text(made):
    assert generate(*made, [], max_tokens=3) == []
