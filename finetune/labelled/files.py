"""Files of labelled examples as records, each with its place, none skipped."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gesso.finetune.instructions.config import SourceConfig
from gesso.finetune.instructions.fields import FieldError, Record
from gesso.finetune.instructions.files import (
    HEAD,
    Item,
    existing,
    items_of,
    lines,
    read_text,
    table,
)
from gesso.finetune.labelled.config import TaskConfig
from gesso.finetune.labelled.shapes import Fields, Shape
from gesso.settings.nearest import did_you_mean

_BY_SUFFIX = {
    ".jsonl": "jsonl", ".json": "jsonl", ".tsv": "tsv", ".csv": "csv", ".conll": "conll",
    ".iob": "conll", ".iob2": "conll", ".bio": "conll",
}  # fmt: skip


def format_of(path: str, config: TaskConfig) -> str:
    """What a file is: as asked, else by its name. ValueError for a name that says nothing."""
    if config.format:
        return config.format
    if path.startswith("tfds:"):
        return "tfds"
    name = path.removesuffix(".gz").removesuffix(".zst")
    if kind := _BY_SUFFIX.get(Path(name).suffix):
        return "squad" if kind == "jsonl" and name.endswith(".json") and _squad(path) else kind
    known = ", ".join(_BY_SUFFIX)
    raise ValueError(
        f"{path}: what is in it? Say --format jsonl, tsv, csv, conll or squad (names that end with"
        f" {known} say it themselves)"
    )


def records_of(path: str, config: TaskConfig, shape: Shape) -> Iterator[Item]:
    """The records of a file. Raises ValueError for one that is missing or no file of its format."""
    form = format_of(path, config)
    if form == "conll":
        yield from _conll(path)
    elif form == "squad":
        yield from _questions(path)
    elif form in ("tsv", "csv"):
        yield from table(
            existing(path), form, columns=config.columns or _own_columns(path, form, shape)
        )
    else:
        for item in items_of(SourceConfig(path=path, format="tfds" if form == "tfds" else "jsonl")):
            yield from _flatten(item)


def fields_of(record: Record, config: TaskConfig, shape: Shape) -> Fields:
    """The fields that a file's records have: as asked, else the first way its shape knows that this
    record has. Raises ValueError naming what there is."""
    asked = [
        Fields(
            texts=config.texts or each.texts,
            label=config.label or each.label,
            words=config.words or each.words,
        )
        for each in shape.fields
    ]
    for each in asked:
        if all(_has(record, name) for name in names_of(each)):
            return each
    has = f"it has {', '.join(map(str, record))}"
    # Of what is not there, first what was asked for by name, then a label.
    named = [name for text in config.texts for name in _names(text)]
    for name in (*named, config.label, config.words):
        if name and not _has(record, name):
            raise ValueError(f"there is no field {name!r}{did_you_mean(name, record)} ({has})")
    for each in asked:
        if all(_has(record, name) for name in names_of(each) if name != each.label):
            raise ValueError(
                f"there is no field {each.label!r}{did_you_mean(each.label, record)}; name the"
                f" field with the label: --label ({has})"
            )
    raise ValueError(
        f"none of the ways that {config.task!r} is known to come in; say --texts (or --words) and"
        f" --label ({has})"
    )


def names_of(fields: Fields) -> list[str]:
    """Every field that is read."""
    texts = [name for text in fields.texts for name in _names(text)]
    return [*texts, *([fields.words] if fields.words else []), fields.label]


def text_of(record: Record, template: str) -> str:
    """A field's text, or a template's. Raises FieldError where one is missing or empty."""
    if "{" not in template:
        return _text(value_of(record, template), template)
    made, rest = "", template
    while "{" in rest:
        before, _, rest = rest.partition("{")
        name, _, rest = rest.partition("}")
        made += before + _text(value_of(record, name), name)
    return made + rest


def value_of(record: Record, name: str) -> Any:
    """A field's value; dots go inwards. Raises FieldError where it is missing."""
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            has = ", ".join(map(str, record))
            raise FieldError(
                "missing_field", f"no {name!r}{did_you_mean(name, record)}; it has {has}"
            )
        value = value[key]
    return value


def _names(template: str) -> list[str]:
    if "{" not in template:
        return [template]
    return [part.partition("}")[0] for part in template.split("{")[1:]]


def _has(record: Record, name: str) -> bool:
    try:
        value_of(record, name)
    except FieldError:
        return False
    return True


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise FieldError("wrong_type", f"{name!r} is not text but {value!r:.80}")
    text = str(value)
    if not text.strip():
        raise FieldError("empty_field", f"{name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError("lone_surrogate", f"{name!r} has half of a UTF-16 pair") from None
    return text


def _own_columns(path: str, form: str, shape: Shape) -> tuple[str, ...]:
    """The columns of a shape's own tables, for a file that is one: without a header."""
    if form != "tsv" or not shape.columns:
        return ()
    first = next(lines(existing(path)))[1]
    cells = first.split("\t") if isinstance(first, str) else []
    return shape.columns if len(cells) == len(shape.columns) and "label" not in cells else ()


def _flatten(item: Item) -> Iterator[Item]:
    """MultiRC's own file has questions in passages and answers in questions."""
    passage = None if isinstance(item.record, tuple) else item.record.get("passage")
    if not isinstance(passage, Mapping) or "questions" not in passage:
        yield item
        return
    assert isinstance(item.record, Mapping)
    for number, question in enumerate(passage["questions"], 1):
        for k, answer in enumerate(question.get("answers", []), 1):
            record = {"paragraph": passage.get("text"), "question": question.get("question"),
                      "answer": answer.get("text"), "label": answer.get("label")}  # fmt: skip
            yield Item(f"{item.place}, question {number}, answer {k}", record, item.head)


def _conll(path: str) -> Iterator[Item]:
    """A sentence per run of lines: the word is the first column, its tag the last one."""
    words: list[str] = []
    tags: list[str] = []
    start, problem = 0, None
    for number, text, _ in lines(existing(path)):
        blank = text == ("blank_line", "")
        if isinstance(text, str) and text.startswith("-DOCSTART-"):
            blank = True
        if blank:
            if words or problem:
                yield _sentence(path, start, words, tags, problem)
            words, tags, problem = [], [], None
            continue
        start = start if words or problem else number
        if isinstance(text, tuple):
            problem = text
            continue
        cells = text.split("\t") if "\t" in text else text.split()
        if len(cells) < 2:
            problem = ("wrong_columns", f"line {number} has no word and tag: {text!r:.80}")
            continue
        words.append(cells[0])
        tags.append(cells[-1])
    if words or problem:
        yield _sentence(path, start, words, tags, problem)


def _sentence(
    path: str, start: int, words: list[str], tags: list[str], problem: tuple[str, str] | None
) -> Item:
    record = problem or {"words": words, "tags": tags}
    return Item(f"{path}:{start}", record, " ".join(words)[:HEAD])


def _squad(path: str) -> bool:
    content = read_text(existing(path))[:4096]
    return content.lstrip()[:1] == b"{" and b'"data"' in content or b'"paragraphs"' in content


def _questions(path: str) -> Iterator[Item]:
    """SQuAD's published JSON: articles, paragraphs, questions."""
    try:
        content = json.loads(read_text(existing(path)))
        articles = content["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no SQuAD file: {error!r:.200}") from None
    for a, article in enumerate(articles, 1):
        for p, paragraph in enumerate(article.get("paragraphs", []), 1):
            for q, asked in enumerate(paragraph.get("qas", []), 1):
                record = {**asked, "context": paragraph.get("context")}
                place = f"{path}, article {a}, paragraph {p}, question {q}"
                yield Item(place, record, str(asked.get("question"))[:HEAD])
