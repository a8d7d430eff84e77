"""Options score what the whole text through the whole model gives them, in float64, one by one."""

import dataclasses

import jax
import numpy as np
import pytest

from gesso.data.tokenizers.load import load_tokenizer
from gesso.evaluation.generation import continuations
from gesso.evaluation.generation.continuations import Asked, likelihoods
from gesso.evaluation.generation.decoding import over_rows, replication
from gesso.evaluation.questions.choices import (
    Question,
    Scores,
    choice_sums,
    option_scores,
    score_choices,
)
from gesso.models import GPTConfig, build
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
    init_std=0.3,
)
QUESTIONS = [
    Question(prompt="def f(", options=("x):", "much longer, and)"), right=(1,)),
    Question(prompt="Is the sky blue? ", options=("yes", "no", "perhaps"), right=(0, 2)),
    Question(prompt="", options=("a", "b"), right=(0,)),
    Question(prompt="w" * 80, options=("one", "two", "three", "four"), right=(3,)),
]


@pytest.fixture(scope="module")
def made():
    model = build(CONFIG)
    return model, model.init(jax.random.key(0)), load_tokenizer("bytes")


@pytest.fixture(scope="module")
def scored(made):
    return score_choices(*made, QUESTIONS, premise="Answer:", rows=4)


@pytest.fixture(scope="module")
def brute(made):
    """(ids before, ids after) -> nats, by the full forward."""
    model, params, _ = made
    apply = jax.jit(model.apply)

    def nats(before, after):
        row = np.zeros((1, CONFIG.positions), np.int32)
        whole = [*before, *after]
        row[0, : len(whole) - 1] = whole[:-1]  # the last is predicted and never read
        logits = np.asarray(apply(params, {"tokens": row})["logits"][0], np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(logs[len(before) - 1 + i, token] for i, token in enumerate(after))

    return nats


def test_every_option_scores_what_brute_force_gives(made, scored, brute):
    encode = made[2].encode
    for question, scores in zip(QUESTIONS, scored, strict=True):
        body = question.prompt.rstrip(" ")
        moved = question.prompt[len(body) :]
        before = list(encode(body)) or [made[2].eos]
        expected = [brute(before, list(encode(moved + option))) for option in question.options]
        # float32 against float64, sums of up to 17 logs of about 5 nats
        np.testing.assert_allclose(scores.nats, expected, atol=2e-4)
        alone = [brute(list(encode("Answer:")), list(encode(o))) for o in question.options]
        np.testing.assert_allclose(scores.alone, alone, atol=2e-4)
        assert scores.bytes.tolist() == [len(option) for option in question.options]
    assert [scores.cut for scores in scored] == [0, 0, 0, 0]


def test_batches_order_and_repetition_change_nothing(made, scored):
    backwards = score_choices(*made, QUESTIONS[::-1], rows=3)
    for one, other in zip(scored, backwards[::-1], strict=True):
        np.testing.assert_allclose(one.nats, other.nats, atol=1e-5)


def test_sharded_params_give_the_same_scores(made, scored):
    model, params, tokenizer = made
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placed = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp_tensor"].at_rest, mesh))
    found = score_choices(model, placed, tokenizer, QUESTIONS[:2], rows=4)
    for one, other in zip(scored, found, strict=False):
        np.testing.assert_allclose(one.nats, other.nats, atol=1e-4)


def test_rows_are_split_over_the_mesh(made):
    """In the compiled cost of a device: 4 parts of the rows, 2 of the heads."""
    model, params, _ = made
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placed = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp_tensor"].at_rest, mesh))
    asked = [Asked([7] * 64, [[1, 2], [3], [4], [5]])] * 8
    assert flops(model, placed, asked) < flops(model, params, asked) / 4


def test_long_options_go_fewer_at_a_time(made, monkeypatch):
    model, params, _ = made
    asked = [Asked([1], [list(range(2, 98)), [3], [4]])]  # as long as the model is
    whole = likelihoods(model, params, asked)
    monkeypatch.setattr(continuations, "_LOGITS", 96 * CONFIG.vocab)
    for one, other in zip(whole[0], likelihoods(model, params, asked)[0], strict=True):
        assert one.nats == pytest.approx(other.nats, abs=1e-4)


def test_a_long_prompt_loses_its_beginning_and_says_so(made, brute):
    prompt = "".join(chr(97 + i % 26) for i in range(120))
    (scores,) = score_choices(*made, [Question(prompt=prompt, options=("yes", "no"), right=(0,))])
    kept = prompt[scores.cut :]
    assert len(kept) == CONFIG.positions + 1 - 3
    expected = [brute(list(made[2].encode(kept)), list(made[2].encode(o))) for o in ("yes", "no")]
    np.testing.assert_allclose(scores.nats, expected, atol=2e-4)


class Merging:
    """A tokenizer in which "ab" and " y" are one id across any border."""

    eos, vocab_size = 0, 264

    def encode(self, text):
        ids = []
        while text:
            size = 2 if text[:2] in ("ab", " y") else 1
            ids.append({"ab": 200, " y": 201}.get(text[:size]) or ord(text[0]))
            text = text[size:]
        return np.array(ids)


def test_a_token_over_the_border_belongs_to_the_option(made, brute):
    model, params, _ = made
    questions = [
        Question(prompt="xa", options=("b", "c"), right=(0,)),
        Question(prompt="is ", options=("y", "n"), right=(0,)),
    ]
    first, second = score_choices(model, params, Merging(), questions)
    x, a, c, i, s, n = map(ord, "xacisn")
    # Of "c", "a" is only read; of "ab" nothing is left to be only read.
    np.testing.assert_allclose(first.nats, [brute([x], [200]), brute([x, a], [c])], atol=2e-4)
    assert first.tokens.tolist() == [1, 1]
    expected = [brute([i, s], [201]), brute([i, s], [32, n])]
    np.testing.assert_allclose(second.nats, expected, atol=2e-4)
    assert second.tokens.tolist() == [1, 2]


def test_greedy_is_whether_the_model_would_have_written_it(made):
    model, params, _ = made
    apply = jax.jit(model.apply)
    row = np.zeros((1, CONFIG.positions), np.int32)
    row[0, :3] = 5, 6, 7
    for place in range(3, 7):
        row[0, place] = int(apply(params, {"tokens": row})["logits"][0, place - 1].argmax())
    likeliest = row[0, 3:7].tolist()
    other = [*likeliest[:-1], (likeliest[-1] + 1) % 264]
    (found,) = likelihoods(model, params, [Asked([5, 6, 7], [likeliest, other])])
    assert [each.greedy for each in found] == [True, False]


SCORES = Scores(
    nats=np.array([-4.0, -6.0, -4.5]),
    tokens=np.array([1, 3, 3]),
    bytes=np.array([2, 12, 5]),
    alone=np.array([-1.0, -4.0, -9.0]),
    cut=0,
)


@pytest.mark.parametrize(("rule", "best"), [("raw", 0), ("token", 2), ("byte", 1), ("pmi", 2)])
def test_rules_rank_differently(rule, best):
    assert option_scores(SCORES, rule).argmax() == best
    question = Question(prompt="", options=("a", "b", "c"), right=(best,))
    sums = choice_sums([question], [SCORES], rule)
    assert sums["right"].tolist() == [1] and sums["tied"].tolist() == [0]
    share = np.exp(option_scores(SCORES, rule))
    assert sums["confidence"][0] == pytest.approx(share.max() / share.sum())


def test_ties_score_chance_wherever_the_answer_is():
    flat = SCORES._replace(nats=np.full(3, -2.0))
    for right in ((0,), (1,), (2,)):
        question = Question(prompt="", options=("a", "b", "c"), right=right)
        sums = choice_sums([question], [flat], "raw")
        assert sums["right"][0] == pytest.approx(1 / 3) and sums["tied"][0] == 1


def test_pmi_without_a_premise_is_refused():
    with pytest.raises(ValueError, match="premise"):
        option_scores(SCORES._replace(alone=None), "pmi")
    with pytest.raises(ValueError, match="no rule 'best'"):
        option_scores(SCORES, "best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ()}, "no options"),
        ({"options": ("a", "")}, "an empty one"),
        ({"right": ()}, "right"),
        ({"right": (2,)}, "it has 0 to 1"),
        ({"options": ("a" * 97, "b")}, "97 tokens and the model 96"),
    ],
)
def test_what_cannot_be_scored_is_refused(made, change, message):
    question = Question(prompt="p", options=("a", "b"), right=(0,))
    with pytest.raises(ValueError, match=message):
        score_choices(*made, [dataclasses.replace(question, **change)])


def test_what_is_given_is_read_once(made):
    """In the compiled cost: four options of one text are nowhere near four texts."""
    model, params, _ = made
    together = Asked([7] * 64, [[1, 2], [3], [4], [5]])
    apart = [Asked(together.given, [option]) for option in together.options]
    assert flops(model, params, apart) > 2 * flops(model, params, [together])


def flops(model, params, asked):
    """Of all options in one call, on one device."""
    options = [(i, j) for i, each in enumerate(asked) for j in range(len(each.options))]
    over = over_rows(params)
    batch = continuations._inputs(asked, CONFIG.longest, over.parts)
    asked = [asked[at] for at, _ in options]
    follows = continuations._options(asked, options, CONFIG.longest, over.parts)
    arguments = (params, over.place(batch), over.place(follows))
    run = continuations._compile(model.config, replication(params))
    return run.lower(*arguments).compile().cost_analysis()["flops"]
