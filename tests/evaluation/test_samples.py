"""Samples that people read: damaged text mended, masked words guessed, in brackets."""

import jax
import numpy as np
import pytest
from evaluation_stores import MemoryStore

from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.evaluation.generation.samples import _in_brackets, samples
from gesso.models import build as build_model
from gesso.models.config import Seq2SeqConfig
from gesso.objectives.config import DenoiseConfig, MixedConfig, MixedPart, Seq2SeqLMConfig
from gesso.objectives.kinds import build

TEXTS = {
    "A": {"train": ["x"], "holdout": []},
    "B": {"train": ["x"], "holdout": ["a fox\tein Fuchs", "two dogs\tzwei Hunde " * 3] * 4},
}
CONFIG = Seq2SeqConfig(
    vocab=384, encoder_layers=1, decoder_layers=1, embed=16, heads=1, head_dim=16, mlp=16
)


def shown(given, truth, guesses):
    """Masked places are those of "#"; guesses: the bytes said for them."""
    tokens = np.frombuffer(truth.encode(), np.uint8).astype(np.int32)
    seen = np.frombuffer(given.encode(), np.uint8).astype(np.int32)
    places = np.flatnonzero((seen == ord("#")) | (seen != tokens))
    seen = np.where(seen == ord("#"), 300, seen)
    made = _in_brackets(BytesTokenizer(), seen, places, tokens[places], np.array(guesses))
    return made.prompt, made.text


def test_guesses_stand_in_brackets_beside_what_was_there():
    prompt, text = shown("a f#x is x", "a fox is a", [ord("o"), ord("e")])
    assert prompt == "a f[_]x is [x]"
    assert text == "\n→ a f[o]x is [e≠a]"


def test_an_id_that_is_no_text_is_a_blank():
    assert shown("a f#x", "a fox", [300]) == ("a f[_]x", "\n→ a f[_≠o]x")


@pytest.mark.parametrize(
    "config",
    [
        Seq2SeqLMConfig(),
        MixedConfig(
            parts={
                "a": MixedPart(objective=DenoiseConfig()),
                "b": MixedPart(objective=DenoiseConfig(form="causal")),
            }
        ),
    ],
)
def test_an_encoder_decoder_writes_for_a_held_out_source(config):
    store, model = MemoryStore(TEXTS), build_model(CONFIG)
    objective = build(config, tokenizer=store.tokenizer(), model=CONFIG)
    settings = {"length": 64, "prompts": ("one", "two"), "max_tokens": 16, "seed": 0}
    params = model.init(jax.random.key(0))
    made = samples(model, objective, params, store, **settings)
    assert len(made) == 2
    for prompt, text in made:
        if config.kind == "seq2seq":
            assert prompt in {"a fox", "two dogs"}
        else:
            assert "<extra_id_0>" in prompt
        assert text.startswith("\n→ ")
    assert made == samples(model, objective, params, store, **settings)


def test_what_writes_in_no_known_way_has_no_samples():
    store, model = MemoryStore(TEXTS), build_model(CONFIG)
    objective = build(DenoiseConfig(), tokenizer=store.tokenizer(), model=CONFIG)
    settings = {"length": 64, "prompts": ("one",), "max_tokens": 16, "seed": 0}
    nothing = MemoryStore({"A": TEXTS["A"]})
    assert samples(model, objective, {}, nothing, **settings) == []
