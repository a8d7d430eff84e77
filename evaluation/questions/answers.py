"""The answer in a written solution, and whether it is the right one (GSM8K and its like)."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

# The line that gives the answer: "#### 18" in GSM8K's data, "A: 18" in its models' solutions.
# Only at the start of a line: a solution may well speak of "job A: 42,000".
_LINE = re.compile(r"^[ \t]*(?:####|A:)[ \t]*(.*)$", re.MULTILINE)
# What chain-of-thought prompts (Wei et al. 2022) end with.
_SENTENCE = re.compile(r"\banswer is:?[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
_NUMBER = re.compile(r"[-\u2212]?[ \t]*[$\u20ac\u00a3]?[ \t]*(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")


def final_number(text: str) -> Fraction | None:
    """The number on the last answer line ("#### 18", "A: 18") of a solution, else after its last
    "answer is"; None where there is none. Exact: 1,000 is 1000.0, and 1/5 a fifth; currency signs
    and what follows the number (units, a full stop) are not read."""
    for pattern in (_LINE, _SENTENCE):
        if found := pattern.findall(text):
            return _number(found[-1])
    return None


def last_number(text: str) -> Fraction | None:
    """The last number anywhere in the text: a lenient rule, for models that were shown no format.
    It also finds a number where the model gave no answer."""
    found = _NUMBER.findall(text)
    return _number(found[-1]) if found else None


def answer_sums(
    solutions: Sequence[str],
    references: Sequence[str],
    *,
    read: Callable[[str], Fraction | None] = final_number,
) -> dict[str, np.ndarray]:
    """Per example {"right", "answered", "count": f64[n]}: whether the solution's number is the
    reference's, and whether it has one. read: how a solution's number is found. ValueError for a
    reference without an answer line."""
    right, answered = [], []
    for place, (solution, reference) in enumerate(zip(solutions, references, strict=True)):
        truth = final_number(reference)
        if truth is None:
            raise ValueError(f"reference {place} has no answer line (#### 18): {reference[-60:]!r}")
        given = read(solution)
        answered.append(given is not None)
        right.append(given == truth)
    made = {"right": right, "answered": answered, "count": np.ones(len(right))}
    return {name: np.array(leaf, np.float64) for name, leaf in made.items()}


def _number(text: str) -> Fraction | None:
    if not (found := _NUMBER.search(text)):
        return None
    digits = re.sub(r"[,$\u20ac\u00a3 \t]", "", found.group()).replace("\u2212", "-")
    top, _, bottom = digits.partition("/")
    if bottom and not int(bottom):
        return None
    return Fraction(top) / int(bottom or 1)
