"""Rank classification as figures: accuracy by rule, its interval, what chance gives, calibration,
and two models compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gesso.evaluation.bootstrap import compare, interval
from gesso.evaluation.calibration import bin_counts, calibration, equal_width
from gesso.evaluation.questions.choices import Question, Rule, Scores, choice_sums
from gesso.evaluation.questions.files import Groups
from gesso.evaluation.sums import ratio


def accuracy(sums: Mapping[str, Any]) -> float:
    """Of added `choice_sums`."""
    return ratio(sums["right"], sums["count"])


def rules_of(scores: Sequence[Scores]) -> tuple[Rule, ...]:
    """The rules that these scores can be ranked by."""
    known = all(each.alone is not None for each in scores)
    return ("raw", "token", "byte", "pmi") if known else ("raw", "token", "byte")


def choice_metrics(
    questions: Sequence[Question], scores: Sequence[Scores], groups: Groups = None
) -> dict[str, Any]:
    """{"rules": {rule: {"accuracy", "low", "high", "tied", "calibration"}}, "chance", "commonest",
    "questions", "groups", "options", "cut"}.

    low, high: the 95% bootstrap interval, of groups where there are some. tied: the share of
    questions whose best options tie, of which each counts its share. calibration: of the chosen
    option's share in the softmax of what the rule compares, with its null band. chance: what
    guessing gets on average. commonest: the baseline that always takes the same place. cut:
    tokens of prompts that did not fit.
    """
    places = Counter(place for each in questions for place in each.right)
    rules = {}
    for rule in rules_of(scores):
        sums = choice_sums(questions, scores, rule)
        found = interval(_right_and_count(sums), accuracy, clusters=groups)
        bins = bin_counts(sums["confidence"], sums["right"], edges=equal_width())
        rules[rule] = {
            "accuracy": found.value,
            "low": found.low,
            "high": found.high,
            "tied": float(sums["tied"].mean()),
            "calibration": calibration(bins),
        }
    return {
        "rules": rules,
        "chance": float(np.mean([len(each.right) / len(each.options) for each in questions])),
        "commonest": max(places.values()) / len(questions),
        "questions": len(questions),
        "groups": len(set(groups)) if groups is not None else len(questions),
        "options": sum(len(each.options) for each in questions),
        "cut": sum(each.cut for each in scores),
    }


def choices_compared(
    questions: Sequence[Question],
    first: Sequence[Scores],
    second: Sequence[Scores],
    groups: Groups = None,
) -> dict[str, Any]:
    """{rule: {"first", "second", "difference", "low", "high", "p"}} of two models' scores of the
    same questions: evaluation.bootstrap.compare."""
    found = {}
    for rule in rules_of([*first, *second]):
        one, two = (
            _right_and_count(choice_sums(questions, each, rule)) for each in (first, second)
        )
        found[rule] = comparison(one, two, accuracy, groups)
    return found


def comparison(one: Mapping[str, Any], two: Mapping[str, Any], figure: Any, groups: Groups) -> Any:
    """evaluation.bootstrap.compare as plain figures."""
    made = compare(one, two, figure, clusters=groups)
    return {
        "first": made.first,
        "second": made.second,
        "difference": made.difference.value,
        "low": made.difference.low,
        "high": made.difference.high,
        "p": made.p,
    }


def _right_and_count(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: sums[name] for name in ("right", "count")}
