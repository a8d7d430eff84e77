"""Options after a source that an encoder read: the whole forward gives them the same."""

import jax
import numpy as np
import pytest

from gesso.evaluation.generation.continuations import Asked, likelihoods
from gesso.evaluation.questions.choices import Question, score_choices
from gesso.models import BERTConfig, Seq2SeqConfig, build
from gesso.objectives import DenoiseConfig


class Letters:
    """a to z are ids 0 to 25, and 26 ends a text."""

    vocab_size, eos = 27, 26

    def encode(self, text):
        return np.array([ord(each) - ord("a") for each in text], np.uint32)


EOS, START, MODE = Letters.eos, 7, 30
CONFIG = Seq2SeqConfig(
    vocab=40, embed=32, heads=2, mlp=64, head_dim=16, position_encoding="learned", positions=32,
    head="untied", init_factor=2.0, start=START,
)  # fmt: skip
QUESTIONS = [
    Question(prompt="abc", options=("x", "yzyz"), right=(0,)),
    Question(prompt="itisablue", options=("yes", "no", "or"), right=(1,)),
]


@pytest.mark.parametrize(
    ("objective", "frame"),
    [
        (None, lambda prompt, option: ([*prompt, EOS], [START], [*option, EOS])),
        (
            DenoiseConfig(form="causal", mode=MODE),
            lambda prompt, option: ([MODE], [START, *prompt], option),
        ),
    ],
)
def test_options_score_what_the_whole_forward_gives(objective, frame):
    model, tokenizer = build(CONFIG), Letters()
    params = model.init(jax.random.key(1))
    apply = jax.jit(model.apply)
    scored = score_choices(model, params, tokenizer, QUESTIONS, objective=objective)
    for question, scores in zip(QUESTIONS, scored, strict=True):
        prompt = tokenizer.encode(question.prompt).tolist()
        for option, nats in zip(question.options, scores.nats, strict=True):
            source, given, after = frame(prompt, tokenizer.encode(option).tolist())
            whole = [*given, *after]
            batch = padded("source", source) | padded("tokens", whole[:-1])
            logits = np.asarray(apply(params, batch)["logits"][0], np.float64)
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            places = range(len(given) - 1, len(whole) - 1)
            expected = sum(logs[place, whole[place + 1]] for place in places)
            assert nats == pytest.approx(expected, abs=2e-4)


def padded(name, ids, length=16):
    """At its end, so that one shape is compiled."""
    rows = np.zeros((2, 1, length), np.int32)
    rows[0, 0, : len(ids)], rows[1, 0, : len(ids)] = ids, 1
    return {name: rows[0], {"tokens": "segments"}.get(name, "source_segments"): rows[1]}


def test_a_model_that_predicts_no_next_token_is_refused():
    model = build(BERTConfig(vocab=40, positions=8, layers=1, embed=8, heads=2, mlp=16))
    with pytest.raises(ValueError, match="bert model does not predict the next token"):
        likelihoods(model, {}, [Asked([1], [[2]])])
