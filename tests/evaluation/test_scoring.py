"""Scores of written answers equal those of the libraries people publish with."""

import sys

import numpy as np
import pytest

from gesso.evaluation.bootstrap import interval
from gesso.evaluation.questions.scoring import (
    MissingLibrary,
    bleu,
    bleu_sums,
    match,
    match_sums,
    normalise,
    rouge,
    rouge_sums,
)
from gesso.evaluation.sums import total

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    ",",
    "and",
    "then",
    "it",
    "ran",
    "away",
    "from",
    "the",
    "dog",
    ".",
]


def written(n=40, seed=0):
    """Answers that share much with one of their references, of different lengths."""
    drawn = np.random.default_rng(seed)
    texts = [
        [" ".join(drawn.choice(WORDS, drawn.integers(4, 16))) for _ in range(3)] for _ in range(n)
    ]
    answers = [
        f"{a[0][: len(a[0]) // 2]}{b}" for a, (b, *_) in zip(texts, texts[1:] + texts, strict=False)
    ]
    return answers, [known[: 1 + i % 3] for i, known in enumerate(texts)]


def in_batches(sums_of, answers, references, size):
    for start in range(0, len(answers), size):
        part = sums_of(answers[start : start + size], references[start : start + size])
        yield {name: leaf.sum(0) for name, leaf in part.items()}


@pytest.mark.parametrize("references", [1, 3])
def test_corpus_bleu_is_sacrebleus_for_any_batches(references):
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, _ = written()
    known = [written(seed=seed)[1] for seed in range(references)]
    known = [[each[i][0] for each in known] for i in range(len(answers))]
    expected = sacrebleu.corpus_bleu(answers, [list(each) for each in zip(*known, strict=True)])
    sums = total(in_batches(bleu_sums, answers, known, 7))
    assert bleu(sums) == pytest.approx(expected.score, abs=1e-9)
    assert 5 < expected.score < 95
    mean = np.mean([bleu(total([each])) for each in in_batches(bleu_sums, answers, known, 7)])
    assert abs(mean - expected.score) > 0.1  # what averaging batches would have said


def test_bleu_of_a_corpus_without_long_matches_is_smoothed_as_sacrebleu_does():
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, known = ["the cat ran", "a dog"], [["the cat sat on it"], ["a dog"]]
    expected = sacrebleu.corpus_bleu(answers, [[each[0] for each in known]])
    assert bleu(total(in_batches(bleu_sums, answers, known, 1))) == expected.score


def test_bleu_has_an_interval():
    answers, known = written(80)
    sums = bleu_sums(answers, known)
    found = interval(sums, bleu, draws=100)
    assert found.value == bleu(total(in_batches(bleu_sums, answers, known, 9)))
    assert found.low < found.value < found.high


def test_rouge_is_that_of_rouge_score_and_the_best_of_several():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    answers, known = written()
    kinds = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    reference = scorer.RougeScorer(list(kinds), use_stemmer=False)
    expected = [reference.score_multi(k, answer) for k, answer in zip(known, answers, strict=True)]
    figures = rouge(total(in_batches(rouge_sums, answers, known, 7)))
    for kind in kinds:
        assert figures[kind] == pytest.approx(np.mean([each[kind].fmeasure for each in expected]))
    assert figures["rougeL"] < figures["rouge1"]


def test_texts_match_as_in_squad():
    assert normalise("The  cat's, a 'Hat'!") == "cats hat"
    sums = match_sums(
        ["The Cat!", "a dog ran off", "", "x"],
        [["dog", "cat"], ["the dog ran", "cats"], ["a"], ["y"]],
    )
    assert sums["exact"].tolist() == [1, 0, 1, 0]
    assert sums["f1"].tolist() == [1, pytest.approx(4 / 5), 1, 0]
    assert match({name: leaf.sum() for name, leaf in sums.items()})["exact"] == 0.5


def test_repeated_words_are_a_bag():
    # two of three in common: 2 * 2 / (3 + 2)
    assert match_sums(["no no no"], [["no no"]])["f1"].tolist() == [0.8]


@pytest.mark.parametrize("sums_of", [match_sums, bleu_sums, rouge_sums])
def test_answers_without_references_are_refused(sums_of):
    with pytest.raises(ValueError, match="at least one text"):
        sums_of(["a"], [[]])
    with pytest.raises(ValueError, match="list of at least one"):
        sums_of(["a"], ["a text, not a list"])
    with pytest.raises(ValueError, match="1 answers and references of 2"):
        sums_of(["a"], [["a"], ["b"]])
    assert all(len(leaf) == 0 for leaf in sums_of([], []).values())


@pytest.mark.parametrize(
    ("sums_of", "library"), [(bleu_sums, "sacrebleu"), (rouge_sums, "rouge_score.rouge_scorer")]
)
def test_a_missing_library_names_its_extra(sums_of, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=r"gesso\[evaluate\]"):
        sums_of(["a"], [["a"]])
