"""Written answers as figures with intervals, and two models' answers compared."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from gesso.evaluation.bootstrap import interval
from gesso.evaluation.questions.answers import answer_sums, final_number, last_number
from gesso.evaluation.questions.choice_metrics import comparison
from gesso.evaluation.questions.files import Exercise, Groups
from gesso.evaluation.questions.scoring import ROUGES, bleu, bleu_sums, match_sums, rouge_sums
from gesso.evaluation.sums import ratio

Score = Literal["match", "bleu", "rouge", "number"]


class _Figure(NamedTuple):
    """What is added per example, and what is computed of the added sums."""

    sums: dict[str, np.ndarray]
    of: Callable[[Any], float]


def answer_metrics(
    exercises: Sequence[Exercise],
    answers: Sequence[str],
    scores: Sequence[Score],
    groups: Groups = None,
) -> dict[str, Any]:
    """{name: {"value", "low", "high"}}, with 95% bootstrap intervals, of groups where there are
    some. match: "exact" and "f1" (SQuAD's). bleu: "bleu", of the corpus, 0..100. rouge: "rouge1",
    "rouge2", "rougeL", "rougeLsum". number: "number", how often the number on the answer line
    (evaluation.questions.answers.final_number) is the right one; "answered", how often there is
    such a line; "last_number", how often the last number anywhere is right. Raises MissingLibrary,
    and ValueError for an exercise whose answer has no number."""
    found = {}
    for name, each in _figures(exercises, answers, scores).items():
        made = interval(each.sums, each.of, clusters=groups)
        found[name] = {"value": made.value, "low": made.low, "high": made.high}
    return found


def answers_compared(
    exercises: Sequence[Exercise],
    first: Sequence[str],
    second: Sequence[str],
    scores: Sequence[Score],
    groups: Groups = None,
) -> dict[str, Any]:
    """{name: {"first", "second", "difference", "low", "high", "p"}} of two models' answers."""
    one, two = (_figures(exercises, each, scores) for each in (first, second))
    return {name: comparison(one[name].sums, two[name].sums, one[name].of, groups) for name in one}


def with_numbers(exercises: Sequence[Exercise]) -> list[str]:
    """Each exercise's one answer, with an answer line; one that is only a number becomes it.
    ValueError for an exercise with several answers, or one without a number."""
    truths = []
    for place, exercise in enumerate(exercises):
        (answer, *others) = exercise.answers
        truth = answer if final_number(answer) is not None else f"#### {answer}"
        if others or final_number(truth) is None:
            raise ValueError(
                f"exercise {place} has the answers {exercise.answers}; a number is compared with"
                ' one answer that is a number or has an answer line ("#### 18")'
            )
        truths.append(truth)
    return truths


def _figures(
    exercises: Sequence[Exercise], answers: Sequence[str], scores: Sequence[Score]
) -> dict[str, _Figure]:
    references = [each.answers for each in exercises]
    made: dict[str, _Figure] = {}

    def means(sums: dict[str, np.ndarray], names: dict[str, str]) -> None:
        for name, leaf in names.items():
            kept = {"sum": sums[leaf], "count": sums["count"]}
            made[name] = _Figure(kept, lambda added: ratio(added["sum"], added["count"]))

    if "match" in scores:
        means(match_sums(answers, references), {"exact": "exact", "f1": "f1"})
    if "bleu" in scores:
        made["bleu"] = _Figure(bleu_sums(answers, references), bleu)
    if "rouge" in scores:
        means(rouge_sums(answers, references), {each: each for each in ROUGES})
    if "number" in scores:
        truths = with_numbers(exercises)
        means(answer_sums(answers, truths), {"number": "right", "answered": "answered"})
        means(answer_sums(answers, truths, read=last_number), {"last_number": "right"})
    return made
