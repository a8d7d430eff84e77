"""What gesso evaluate kept is on the page: every figure, its interval, its baseline, its step."""

import re

import numpy as np
import pytest
from fabricated_run import fabricate

from gesso.records.evaluations import read_evaluations, write_evaluation
from gesso.reports.facts import read_run
from gesso.reports.report import write_report
from gesso.reports.run.evaluations import results

CHOICES = {
    "chance": 0.25,
    "rules": {
        rule: {
            "accuracy": value,
            "low": value - 0.05,
            "high": value + 0.05,
            "calibration": {
                "ece": 0.123,
                "bins": [
                    {"confidence": (i + 0.5) / 5, "accuracy": i / 5 if i else None}
                    for i in range(5)
                ],
            },
        }
        for rule, value in (("raw", 0.631), ("byte", 0.587))
    },
}
ANSWERS = {"scores": {"exact": {"value": 0.417, "low": 0.3, "high": 0.5}}}
HARNESS = {
    "tasks": {"arc": {"acc,none": 0.3217, "acc_stderr,none": 0.01, "ppl,none": None}},
    "groups": {},
}
NAMES = ("self_similarity", "random_similarity", "within_sentence", "self_over", "within_over",
         "explained_centred", "explained_uncentred", "random_centred",
         "random_uncentred")  # fmt: skip
LAYERS = {
    "words": 63,
    "sentences": 373,
    "layers": [
        {name: 0.1 * layer + 0.01 * i for i, name in enumerate(NAMES)} for layer in range(4)
    ],
}


@pytest.fixture
def run(tmp_path):
    folder = fabricate(tmp_path / "run", steps=200)
    write_evaluation(folder, "choices", step=200, of="nli", figures=CHOICES)
    write_evaluation(folder, "answers", step=200, of="a/b c.jsonl", figures=ANSWERS)
    write_evaluation(folder, "harness", step=100, of="arc", figures=HARNESS)
    write_evaluation(folder, "contextuality", step=200, of="", figures=LAYERS)
    return folder


def words(page):
    text = re.sub(r"<(style|script).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_what_was_kept_is_read_back_and_replaced(run):
    files = sorted(path.name for path in (run / "evaluations").iterdir())
    assert files == [
        "answers-a-b-c.jsonl-200.json", "choices-nli-200.json", "contextuality-200.json",
        "harness-arc-100.json",
    ]  # fmt: skip
    write_evaluation(run, "choices", step=200, of="nli", figures={"chance": 0.5})
    write_evaluation(run, "choices", step=300, of="nli", figures=CHOICES)
    (run / "evaluations" / "broken.json").write_text("{")
    (run / "evaluations" / "other.json").write_text('{"kind": 1}')
    found = read_evaluations(run)
    assert [(each["kind"], each["step"]) for each in found] == [
        ("answers", 200), ("choices", 200), ("choices", 300), ("contextuality", 200),
        ("harness", 100),
    ]  # fmt: skip
    assert found[1]["figures"] == {"chance": 0.5}


def test_every_figure_has_its_interval_and_floor(run):
    found = {(each.of, each.how): each for each in results(read_run(run))}
    assert found["nli", "right, by raw"][2:6] == pytest.approx((0.631, 0.581, 0.681, 0.25))
    assert found["a/b c.jsonl", "exact"].value == 0.417
    assert found["arc", "acc"][2:5] == pytest.approx((0.3217, 0.3217 - 0.0196, 0.3217 + 0.0196))
    assert ("arc", "ppl") not in found


def test_the_page_shows_them(run, tmp_path):
    page = write_report([run], tmp_path / "report.html")
    shown = words(page)
    for text in ("63.1%", "58.1% to 68.1%", "25.0%", "41.7%", "0.322", "Reliability, nli",
                 "ECE 0.123", "Contextuality by layer", "63 words in 373 sentences"):  # fmt: skip
        assert text in shown, text
    html = page.read_text()
    assert html.count('id="layers-') > 5 and "layer</text>" in html and "confidence</text>" in html
    assert '"axis":"layer"' in html and '"axis":"confidence"' in html


def test_a_run_without_them_has_no_such_section(tmp_path):
    page = write_report([fabricate(tmp_path / "run", steps=200)], tmp_path / "report.html")
    assert 'id="tasks"' not in page.read_text() and 'id="layers"' not in page.read_text()


def test_figures_that_are_no_numbers_do_not_break_it(run, tmp_path):
    strange = {"rules": {"raw": {"accuracy": "<b>", "calibration": {"bins": [{}]}}, "x": 3}}
    write_evaluation(run, "choices", step=200, of="<i>odd", figures=strange)
    broken = {"layers": [{"self_similarity": None}, {"self_similarity": np.inf}]}
    write_evaluation(run, "contextuality", step=900, of="", figures=broken)
    html = write_report([run], tmp_path / "report.html").read_text()
    assert "<i>odd" not in html and "&lt;i&gt;odd" in html


def test_runs_side_by_side(run, tmp_path):
    other = fabricate(tmp_path / "other", name="other", steps=200)
    better = {"chance": 0.25, "rules": {"raw": {"accuracy": 0.9, "low": 0.8, "high": 0.95}}}
    write_evaluation(other, "choices", step=200, of="nli", figures=better)
    shown = words(write_report([run, other], tmp_path / "report.html"))
    assert "63.1% (58.1% – 68.1%) 90.0% (80.0% – 95.0%) 25.0%" in shown
