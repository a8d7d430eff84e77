"""Files of questions: what is read, and that a broken line is named and refused."""

import json

import pytest

from gesso.evaluation.questions.files import QuestionFileError, read_exercises, read_questions

GOOD = {"prompt": "The sky is", "options": [" blue", " green"], "right": 0}


def written(path, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_questions_are_read(tmp_path):
    lines = [GOOD, "", {**GOOD, "right": [1, 0, 1]}, {**GOOD, "right": " green"}]
    questions, groups = read_questions(written(tmp_path / "q", *lines))
    assert [each.right for each in questions] == [(0,), (1, 0), (1,)]
    assert questions[0].prompt == "The sky is" and questions[0].options == (" blue", " green")
    assert groups is None
    assert len(read_questions(tmp_path / "q", limit=2)[0]) == 2


def test_groups_are_kept(tmp_path):
    lines = [{**GOOD, "group": {"text": n // 2}} for n in range(4)]
    _, groups = read_questions(written(tmp_path / "q", *lines))
    assert groups is not None and [groups.count(each) for each in groups] == [2, 2, 2, 2]


def test_exercises_have_one_answer_or_several(tmp_path):
    lines = [{"prompt": "2+2=", "answer": "4"}, {"prompt": "", "answers": ["4", "four"]}]
    exercises, _ = read_exercises(written(tmp_path / "e", *lines))
    assert [each.answers for each in exercises] == [("4",), ("4", "four")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({**GOOD, "options": [" blue"]}, "line 2 is not a question such as"),
        ({**GOOD, "options": [" blue", 3]}, "line 2 is not a question such as"),
        ({**GOOD, "options": [" blue", ""]}, "line 2 has an empty option"),
        ({**GOOD, "right": 2}, r"line 2: \"right\" is 2; .*0 to 1"),
        ({**GOOD, "right": True}, 'line 2: "right" is True'),
        ({**GOOD, "right": "blue"}, "line 2: \"right\" is 'blue'"),
        ({**GOOD, "right": []}, r"line 2: \"right\" is \[\]"),
        ({"prompt": "x", "options": ["a", "b"]}, 'line 2: "right" is None'),
        ({**GOOD, "group": 1}, 'no "group" and others have'),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    with pytest.raises(QuestionFileError, match=message):
        read_questions(written(tmp_path / "q", GOOD, line))


@pytest.mark.parametrize("line", [{"prompt": "x"}, {"answer": "x"}, {"prompt": "x", "answers": []}])
def test_a_broken_exercise_is_named(tmp_path, line):
    with pytest.raises(QuestionFileError, match="line 1 is not an exercise such as"):
        read_exercises(written(tmp_path / "e", line))


def test_one_question_has_no_interval(tmp_path):
    with pytest.raises(QuestionFileError, match="1 questions; a figure needs at least 2"):
        read_questions(written(tmp_path / "q", GOOD))
    (tmp_path / "broken").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(QuestionFileError, match="line 1 is not JSON"):
        read_questions(tmp_path / "broken")
