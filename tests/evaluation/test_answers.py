"""Answers are read as people read them: also on every recorded solution to GSM8K's test."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from gesso.evaluation.questions.answers import answer_sums, final_number, last_number

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 * 2 = <<9*2=18>>18\n#### 18", 18),
        ("so 3\nA: 1,234.50", Fraction("1234.5")),
        ("A: $-20.", -20),
        ("A: -$20", -20),
        ("A: \u22124 degrees", -4),
        ("A: .5", Fraction(1, 2)),
        ("A: 7/14", Fraction(1, 2)),
        ("A: 3/0", None),
        ("A: 5\nA: 6", 6),
        ("from job A: 42,000\nA: 2000", 2000),
        ("from job A: 42,000", None),
        ("So the answer is 12 apples.", 12),
        ("12 apples", None),
        ("A: none", None),
        ("", None),
    ],
)
def test_the_answer_line_is_read(text, number):
    assert final_number(text) == number


def test_the_lenient_rule_takes_the_last_number():
    assert last_number("5 and 6 make 11 apples") == 11
    assert last_number("none") is None
    sums = answer_sums(["it is 7", "#### 7"], ["#### 7", "#### 7"])
    assert sums["right"].tolist() == [0, 1] and sums["answered"].tolist() == [0, 1]
    assert answer_sums(["it is 7"], ["#### 7"], read=last_number)["right"].tolist() == [1]


def test_a_reference_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="reference 0 has no answer line"):
        answer_sums(["1"], ["1"])


@pytest.fixture(scope="module")
def recorded():
    path = GSM8K / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip("GSM8K's recorded solutions are not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (made["solution"], row["ground_truth"], made["is_correct"])
        for row in rows
        for made in row.values()
        if isinstance(made, dict)
    ]


def test_all_recorded_labels_agree(recorded):
    solutions, truths, labels = zip(*recorded, strict=True)
    right = answer_sums(solutions, truths)["right"]
    assert len(recorded) == 5276
    assert sum(right == labels) == 5276


def test_the_one_that_an_unanchored_pattern_gets_wrong_is_a_job_called_a(recorded):
    """The widely reproduced figure is 5,275: the first "A: " of one reference is in its text."""

    def first(text):
        found = re.search(r"A: (-?[0-9.,]+)", text)
        return found and found.group(1).replace(",", "")

    wrong = [
        truth
        for solution, truth, label in recorded
        if (first(solution) is not None and first(solution) == first(truth)) != label
    ]
    assert len(wrong) == 1 and re.search(r"\S A: [0-9]", wrong[0])
