"""Files of questions: one JSON object a line, options to choose from or answers to write."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gesso.evaluation.questions.choices import Question


class QuestionFileError(ValueError):
    """A line that is not a question. The message has file and line, and the expected form."""


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A prompt (a text, or token ids) and the answers of which any is right."""

    prompt: str | tuple[int, ...]
    answers: tuple[str, ...]


# Questions of one group (one text, one dialogue) are drawn together where intervals are estimated.
Groups = list[Any] | None


def read_questions(path: Path, *, limit: int = 0) -> tuple[list[Question], Groups]:
    """The questions of a file, the first `limit` of them (0: all), and their groups where lines
    have them.

    A line is {"prompt": "The sky is", "options": [" blue", " green"], "right": 0, "group"?: any}:
    options are spelled with the space that stands between them and the prompt; right is the place
    of an option, or several, or an option's text. Raises QuestionFileError for any other line,
    OSError for a file that cannot be read.
    """
    shape = '{"prompt": "The sky is", "options": [" blue", " green"], "right": 0}'
    questions, groups = [], []
    for where, line in _lines(path, limit):
        prompt, options = line.get("prompt"), line.get("options")
        if not isinstance(prompt, str) or not _texts(options) or len(options) < 2:
            raise QuestionFileError(f"{where} is not a question such as {shape}")
        if "" in options:
            raise QuestionFileError(f"{where} has an empty option")
        questions.append(
            Question(
                prompt=prompt, options=tuple(options), right=_right(line.get("right"), line, where)
            )
        )
        groups.append(line.get("group"))
    return questions, _groups(groups, path)


def read_exercises(path: Path, *, limit: int = 0) -> tuple[list[Exercise], Groups]:
    """The same of {"prompt": "2 + 2 =", "answer": "4", "group"?: any}; "answers": ["4", "four"]
    where several are right."""
    shape = '{"prompt": "2 + 2 =", "answer": "4"}, or "answers": ["4", "four"]'
    exercises, groups = [], []
    for where, line in _lines(path, limit):
        answers = [line["answer"]] if "answer" in line else line.get("answers")
        if not isinstance(line.get("prompt"), str) or not _texts(answers):
            raise QuestionFileError(f"{where} is not an exercise such as {shape}")
        exercises.append(Exercise(prompt=line["prompt"], answers=tuple(answers)))
        groups.append(line.get("group"))
    return exercises, _groups(groups, path)


def _right(given: Any, line: dict[str, Any], where: str) -> tuple[int, ...]:
    options = line["options"]
    if isinstance(given, str) and options.count(given) == 1:
        return (options.index(given),)
    places: list[Any] = given if isinstance(given, list) else [given]
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in places)
    if not places or not whole or any(not 0 <= place < len(options) for place in places):
        raise QuestionFileError(
            f'{where}: "right" is {given!r}; it must be the place (0 to {len(options) - 1}) of one'
            " option, several such places, or the text of one option"
        )
    return tuple(dict.fromkeys(places))


def _lines(path: Path, limit: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", the object) of every line that is not blank."""
    count = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            where = f"{path}, line {number}"
            try:
                line = json.loads(text)
            except ValueError as error:
                raise QuestionFileError(f"{where} is not JSON: {error}") from error
            if not isinstance(line, dict):
                raise QuestionFileError(f"{where} is not a JSON object")
            yield where, line
            count += 1
            if count == limit:
                return
    if count < 2:
        raise QuestionFileError(f"{path} has {count} questions; a figure needs at least 2")


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _groups(groups: list[Any], path: Path) -> Groups:
    having = [each is not None for each in groups]
    if not any(having):
        return None
    if not all(having):
        raise QuestionFileError(
            f'{path}: line {having.index(False) + 1} of those read has no "group" and others have'
        )
    named = [json.dumps(each, sort_keys=True) for each in groups]
    if len(set(named)) < 2:
        raise QuestionFileError(f"{path}: all that was read is one group; an interval needs two")
    return named
