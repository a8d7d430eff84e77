"""Datasets as they were downloaded, to files that gesso's commands read: one split each, held out
for all that follows, the text that models are pretrained on included.

    sentence_polarity_ccby/sentence_polarity.zip   Pang & Lee 2005, CC BY 4.0
    subjectivity_ccby/subjectivity.zip             Pang & Lee 2004, CC BY 4.0
    movie_reviews_long/movie_reviews.zip           Pang & Lee 2004, CC BY 4.0
    nltk_state_union/state_union.zip               speeches, public domain
    gsm8k/example_model_solutions.jsonl            github.com/openai/grade-school-math, MIT
    self_instruct/{seed_tasks,user_oriented_instructions}.jsonl
                                                   github.com/yizhongw/self-instruct, Apache-2.0
    niv2_definitions/niv2_definitions_examples.json
                                                   github.com/google-research/FLAN, Apache-2.0
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gesso.data.text.documents import is_held_out, text_hash

# Shares held out. Long documents and questions are few: more of them are needed for a figure.
HELD_OUT = {
    "sentence_polarity": 0.1,
    "subjectivity": 0.1,
    "movie_reviews": 0.2,
    "gsm8k": 0.2,
    "self_instruct": 0.25,
    "niv2_definitions": 0.2,
    "speeches": 0.0,  # a corpus: gesso holds some out
}
SPLITS = ("train", "heldout")
Records = list[dict[str, Any]]


def written(data: Path, folder: Path) -> dict[str, dict[str, int]]:
    """{dataset: {"train": records, "heldout": records}} of the files made under `folder`:

    NAME/{train,heldout}.jsonl, of niv2_definitions .json; corpus/*.jsonl, the text of the training
    splits, without any text that is held out in another one. Raises ValueError naming the file that
    `data` lacks.
    """
    splits = {name: _split(name, read(data)) for name, read in READERS.items()}
    for name, split in splits.items():
        for part, records in zip(SPLITS, split, strict=True):
            place = folder / name / f"{part}.jsonl"
            if name == "niv2_definitions":
                tasks = {each.pop("task"): each for each in records}
                _write(place.with_suffix(".json"), [json.dumps(tasks)])
            else:
                _write(place, map(json.dumps, records))
    held = {text.strip() for _, heldout in splits.values() for text in map(_text, heldout)}
    for corpus, names in CORPORA.items():
        texts = [text for name in names for text in map(_text, splits[name][0])]
        lines = (json.dumps({"text": text}) for text in texts if text.strip() not in held)
        _write(folder / "corpus" / f"{corpus}.jsonl", lines)
    return {name: dict(zip(SPLITS, map(len, split), strict=True)) for name, split in splits.items()}


CORPORA = {
    "reviews": ("movie_reviews", "sentence_polarity", "subjectivity"),
    "instructions": ("self_instruct", "niv2_definitions"),
    "word_problems": ("gsm8k",),
}


def _split(name: str, records: Records) -> tuple[Records, Records]:
    """By a hash of what a record is of: all solutions of a question, and twins, are on one side.
    Not by the hash that gesso holds texts out by, so that it finds some in what is left."""
    salted = [text_hash(f"downstream {_group(each)}".encode()) for each in records]
    held = [is_held_out(each, HELD_OUT[name]) for each in salted]
    both = ([], [])
    for each, out in zip(records, held, strict=True):
        both[out].append(each)
    return both


def _group(record: dict[str, Any]) -> str:
    for key in ("question", "instruction", "definition", "text"):
        if key in record:
            return record[key]
    raise AssertionError(f"a record without a text: {sorted(record)}")


def _text(record: dict[str, Any]) -> str:
    """All of a record that a language model may read."""
    if "instances" in record:
        asked = [f"{each['input']}\n{each['output']}" for each in record["instances"]]
        return "\n".join((record["instruction"], *asked))
    if "definition" in record:
        shown = record["positive_examples"]
        return "\n".join((record["definition"], shown["input"], str(shown["output"])))
    if "question" in record:
        return f"{record['question']}\n{record['solution']}"
    return record["text"]


def _lines(archive: str, **labels: str) -> Callable[[Path], Records]:
    """A reader of files with a sentence a line: {label: the end of its file's name}."""

    def read(data: Path) -> Records:
        with zipfile.ZipFile(_existing(data / archive)) as opened:
            return [
                {"text": line.strip(), "label": label}
                for label, end in labels.items()
                for name in opened.namelist()
                if name.endswith(end)
                for line in _decoded(opened.read(name)).split("\n")
                if line.strip()
            ]

    return read


def _documents(archive: str, *labels: str) -> Callable[[Path], Records]:
    """A reader of archives with a document a file, in a folder per label where there are some."""

    def read(data: Path) -> Records:
        with zipfile.ZipFile(_existing(data / archive)) as opened:
            names = [each for each in opened.namelist() if each.endswith(".txt")]
            return [
                {"text": _decoded(opened.read(name)).strip()}
                | ({"label": name.split("/")[-2]} if labels else {})
                for name in sorted(names)
                if not labels or name.split("/")[-2] in labels
            ]

    return read


def _solutions(data: Path) -> Records:
    """Solutions that models wrote to GSM8K's test, and whether they are right."""
    path = _existing(data / "gsm8k/example_model_solutions.jsonl")
    return [
        {
            "question": row["question"],
            "solution": made["solution"],
            "label": "right" if made["is_correct"] else "wrong",
        }
        for row in _json_lines(path)
        for made in row.values()
        if isinstance(made, dict)
    ]


def _instructions(data: Path) -> Records:
    names = ("seed_tasks", "user_oriented_instructions")
    return [
        {"instruction": row["instruction"], "instances": row["instances"]}
        for name in names
        for row in _json_lines(_existing(data / f"self_instruct/{name}.jsonl"))
    ]


def _definitions(data: Path) -> Records:
    path = _existing(data / "niv2_definitions/niv2_definitions_examples.json")
    tasks = json.loads(path.read_text())
    return [{"task": name, **task} for name, task in tasks.items()]


READERS: dict[str, Callable[[Path], Records]] = {
    "sentence_polarity": _lines(
        "sentence_polarity_ccby/sentence_polarity.zip", negative=".neg", positive=".pos"
    ),
    "subjectivity": _lines(
        "subjectivity_ccby/subjectivity.zip", objective="plot.tok.gt9.5000",
        subjective="quote.tok.gt9.5000",
    ),
    "movie_reviews": _documents("movie_reviews_long/movie_reviews.zip", "neg", "pos"),
    "gsm8k": _solutions,
    "self_instruct": _instructions,
    "niv2_definitions": _definitions,
    "speeches": _documents("nltk_state_union/state_union.zip"),
}  # fmt: skip


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in path.read_text().splitlines() if line.strip())


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # what these corpora were written in


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no {path}; --data needs the files that {__name__} lists")
    return path


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text("".join(f"{line}\n" for line in lines))
    half.replace(path)
