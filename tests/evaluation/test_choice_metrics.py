"""Metrics of choices and of written answers: means, intervals, baselines, two models compared."""

import numpy as np
import pytest

from gesso.evaluation.questions.answer_metrics import answer_metrics, answers_compared, with_numbers
from gesso.evaluation.questions.choice_metrics import choice_metrics, choices_compared
from gesso.evaluation.questions.choices import Question, Scores
from gesso.evaluation.questions.files import Exercise

DRAWN = np.random.default_rng(0)
QUESTIONS = [
    Question(prompt=f"{n}", options=("a", "bb", "c"), right=(n % 3,) if n % 4 else (0, 1))
    for n in range(60)
]


def scores(sharpness):
    """Of a model that prefers the right options by `sharpness` nats."""
    made = []
    for question in QUESTIONS:
        nats = -5 + DRAWN.normal(size=3)
        nats[list(question.right)] += sharpness
        ones = np.ones(3)
        made.append(Scores(nats=nats, tokens=ones, bytes=ones, alone=nats * 0 - 1, cut=1))
    return made


GOOD, POOR = scores(2.0), scores(0.0)


def test_accuracy_stands_between_its_ends_and_beside_its_floors():
    found = choice_metrics(QUESTIONS, GOOD)
    hits = [
        np.argmax(each.nats) in question.right
        for question, each in zip(QUESTIONS, GOOD, strict=True)
    ]
    for rule in ("raw", "token", "byte", "pmi"):  # all rank alike here
        each = found["rules"][rule]
        assert each["accuracy"] == pytest.approx(np.mean(hits))
        assert each["low"] < each["accuracy"] < each["high"]
        assert each["calibration"]["count"] == 60
    assert found["chance"] == pytest.approx((45 / 3 + 15 * 2 / 3) / 60)
    zeros = sum(0 in question.right for question in QUESTIONS)
    assert found["commonest"] == pytest.approx(zeros / 60)
    assert (found["questions"], found["options"], found["cut"]) == (60, 180, 60)


def test_groups_widen_the_interval():
    """Every question ten times over is no more than it was."""
    alone = choice_metrics(QUESTIONS[:6] * 10, GOOD[:6] * 10)
    grouped = choice_metrics(QUESTIONS[:6] * 10, GOOD[:6] * 10, [n % 6 for n in range(60)])
    widths = [
        each["rules"]["raw"]["high"] - each["rules"]["raw"]["low"] for each in (alone, grouped)
    ]
    assert widths[1] >= widths[0]
    assert grouped["groups"] == 6


def test_two_models_are_compared_on_the_same_questions():
    found = choices_compared(QUESTIONS, POOR, GOOD)["raw"]
    assert found["difference"] == pytest.approx(found["second"] - found["first"])
    assert found["p"] < 0.01 and found["low"] > 0
    same = choices_compared(QUESTIONS, GOOD, GOOD)["raw"]
    assert (same["difference"], same["p"]) == (0, 1)


EXERCISES = [
    Exercise(prompt="a", answers=("the blue sky", "sky")),
    Exercise(prompt="b", answers=("four",)),
    Exercise(prompt="c", answers=("nothing at all",)),
]
WRITTEN = ["Sky.", "four five", "no"]


def test_answers_are_scored_with_intervals():
    found = answer_metrics(EXERCISES, WRITTEN, ("match",))
    assert found["exact"]["value"] == pytest.approx(1 / 3)
    assert found["f1"]["value"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["exact"]["low"] == 0 and found["exact"]["high"] == 1
    compared = answers_compared(EXERCISES, ["x", "y", "z"], WRITTEN, ("match",))
    assert compared["exact"]["difference"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("library", "score"), [("sacrebleu", "bleu"), ("rouge_score", "rouge")])
def test_libraries_score_too(library, score):
    pytest.importorskip(library)
    texts = ["the sky is blue today", "two and two is four", "a b c d e"]
    exercises = [Exercise(prompt="", answers=("other words", text)) for text in texts]
    same = answer_metrics(exercises, texts, (score,))
    assert all(
        each["value"] == pytest.approx(100 if score == "bleu" else 1) for each in same.values()
    )
    other = answer_metrics(exercises, [texts[0], "", texts[2] + " f"], (score,))
    assert all(each["low"] <= each["value"] < same[name]["value"] for name, each in other.items())


def test_numbers_are_read_strictly_and_leniently():
    exercises = [Exercise(prompt="", answers=(each,)) for each in ("4", "#### 5", "6")]
    found = answer_metrics(exercises, ["so\n#### 4", "it is 5", "#### 7"], ("number",))
    values = {name: each["value"] for name, each in found.items()}
    assert values == pytest.approx({"number": 1 / 3, "answered": 2 / 3, "last_number": 2 / 3})


@pytest.mark.parametrize("answers", [("1", "2"), ("none",)])
def test_what_is_no_number_is_refused(answers):
    with pytest.raises(ValueError, match="exercise 0 has the answers"):
        with_numbers([Exercise(prompt="", answers=answers)])
