"""Records of a task as examples in tokens: labels by id, tags at first tokens, answers as spans."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from gesso.data.labelled.store import Kind
from gesso.data.labelled.writer import Labelled
from gesso.data.tokenizers.base import Tokenizer
from gesso.finetune.instructions.fields import FieldError, Record
from gesso.finetune.labelled.config import TaskConfig
from gesso.finetune.labelled.files import text_of, value_of
from gesso.finetune.labelled.shapes import Fields, Shape
from gesso.finetune.labelled.words import Words, context_of, span_of
from gesso.settings.nearest import did_you_mean


class Reader(Protocol):
    """What makes an example of a record. labels: names by id. Raises FieldError for a record that
    is none."""

    labels: tuple[str, ...]

    def __call__(self, record: Record, fields: Fields) -> Labelled: ...


def reader_of(
    kind: Kind, config: TaskConfig, shape: Shape, tokenizer: Tokenizer,
    training: Iterable[tuple[Record, Fields]],
) -> Reader:  # fmt: skip
    """The reader of a kind's records. training: the training files' records, whose labels are
    taken where the task says none. Raises ValueError for labels that cannot be."""
    if kind == "qa":
        return _Questions(tokenizer)
    if kind == "regress":
        return _Numbers(tokenizer)
    names = config.labels or shape.labels
    if not names:
        values = (_value(record, fields) for record, fields in training)
        names = _order_names({name for value in values for name in _names(value)})
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a task needs two labels or more, each once, not {', '.join(names)}")
    if config.values and len(config.values) != len(names):
        raise ValueError(f"--values must be {len(names)}, one for each of {', '.join(names)}")
    ids = _ids(names, config, shape)
    if kind == "tag":
        return _Tags(tokenizer, names, ids)
    return _Classes(tokenizer, names, ids)


class _Classes:
    def __init__(self, tokenizer: Tokenizer, names: tuple[str, ...], ids: dict[str, int]) -> None:
        self.labels, self._ids, self._tokenizer = names, ids, tokenizer

    def __call__(self, record: Record, fields: Fields) -> Labelled:
        texts = [text_of(record, each) for each in fields.texts]
        label = _id(value_of(record, fields.label), self._ids, self.labels, fields.label)
        return _of_texts(self._tokenizer, texts, label)


class _Numbers:
    labels = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, record: Record, fields: Fields) -> Labelled:
        texts = [text_of(record, each) for each in fields.texts]
        value = value_of(record, fields.label)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise FieldError("wrong_type", f"{fields.label!r} is not a number but {value!r:.80}")
        return _of_texts(self._tokenizer, texts, number)


class _Tags:
    def __init__(self, tokenizer: Tokenizer, names: tuple[str, ...], ids: dict[str, int]) -> None:
        self.labels, self._ids, self._words = names, ids, Words(tokenizer)

    def __call__(self, record: Record, fields: Fields) -> Labelled:
        words, tags = value_of(record, fields.words), value_of(record, fields.label)
        if not isinstance(words, Sequence) or isinstance(words, str) or not words:
            raise FieldError(
                "wrong_type", f"{fields.words!r} is not a list of words: {words!r:.80}"
            )
        if not isinstance(tags, Sequence) or isinstance(tags, str) or len(tags) != len(words):
            raise FieldError("wrong_type", f"{len(words)} words and not as many tags: {tags!r:.80}")
        if wrong := [each for each in words if not isinstance(each, str) or not each.strip()]:
            raise FieldError("empty_field", f"{wrong[0]!r} is not a word")
        ids = [_id(each, self._ids, self.labels, fields.label) for each in tags]
        pieces = self._words.encode(words, [k > 0 for k in range(len(words))])
        if lost := [word for word, piece in zip(words, pieces, strict=True) if not len(piece)]:
            raise FieldError("no_tokens", f"the tokenizer has no token for the word {lost[0]!r}")
        tokens = np.concatenate(pieces)
        said = np.full(len(tokens), -1, np.int16)
        sizes = np.array([len(each) for each in pieces])
        said[np.cumsum(sizes) - sizes] = ids
        return Labelled(texts=(tokens,), leaves={"tags": said}, facts={"text": " ".join(words)})


class _Questions:
    labels = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._words = tokenizer, Words(tokenizer)

    def __call__(self, record: Record, fields: Fields) -> Labelled:
        question, text = (text_of(record, each) for each in fields.texts)
        answers = _answers(record, fields.label, text)
        context = context_of(text, self._words)
        span = (-1, -1)
        if answers:
            begin = answers[0][1]
            found = span_of(context, begin, begin + len(answers[0][0]))
            if found is None:
                raise FieldError(
                    "bad_answer", f"no word of the context is in {answers[0][0]!r:.80}"
                )
            span = found
        asked = self._tokenizer.encode(question)
        characters = np.concatenate([np.full((len(asked), 2), -1, np.int32), context.characters])
        name = {"id": str(record["id"])} if "id" in record else {}
        said = list(dict.fromkeys(answer for answer, _ in answers))
        return Labelled(
            texts=(asked, context.tokens),
            leaves={"answers": np.array(span, np.int32), "characters": characters},
            facts={**name, "text": f"{question}\n{text}", "context": text, "answers": said},
        )


def _answers(record: Record, label: str, text: str) -> list[tuple[str, int]]:
    """(text, first character) of each answer, in SQuAD's form or the hub's; none where there is
    none. Raises FieldError for one that does not stand where it is said to."""
    known = value_of(record, label)
    if isinstance(known, Mapping):
        texts, starts = known.get("text", []), known.get("answer_start", [])
        known = [
            {"text": each, "answer_start": at} for each, at in zip(texts, starts, strict=False)
        ]
    if not isinstance(known, Sequence) or isinstance(known, str):
        raise FieldError("wrong_type", f"{label!r} is not a list of answers: {known!r:.80}")
    if record.get("is_impossible"):
        return []
    found = []
    for each in known:
        said, at = (each.get(key) if isinstance(each, Mapping) else None
                    for key in ("text", "answer_start"))  # fmt: skip
        if not isinstance(said, str) or not isinstance(at, int) or not said.strip():
            raise FieldError("wrong_type", f"an answer needs text and answer_start: {each!r:.80}")
        if text[at : at + len(said)] != said:
            raise FieldError("bad_answer", f"{said!r:.60} does not stand at character {at}")
        found.append((said, at))
    return found


def _of_texts(tokenizer: Tokenizer, texts: list[str], label: float) -> Labelled:
    tokens = tuple(tokenizer.encode_batch(texts))
    return Labelled(texts=tokens, leaves={"labels": label}, facts={"text": "\n".join(texts)})


def _ids(names: tuple[str, ...], config: TaskConfig, shape: Shape) -> dict[str, int]:
    """What may stand for each label: its name, its number unless names are numbers themselves."""
    if config.values:
        return {value: k for k, value in enumerate(config.values)}
    made = {name: k for k, name in enumerate(names)}
    if not config.labels and not shape.labels:
        return made
    numbered = not any(name.lstrip("-").isdigit() for name in names)
    for k, name in enumerate(names):
        also = shape.values[k] if shape.values and names == shape.labels else ()
        for each in (*((str(k),) if numbered else ()), name.lower(), *also):
            made.setdefault(each, k)
    return made


def _id(value: Any, ids: Mapping[str, int], names: tuple[str, ...], field: str) -> int:
    for each in _names(value) if not isinstance(value, (list, tuple)) else ():
        if (found := ids.get(each, ids.get(each.lower()))) is not None:
            return found
    raise FieldError(
        "unknown_label", f"{field!r} is {value!r:.80}, none of {', '.join(names[:20])}"
        f"{did_you_mean(str(value), names)}",
    )  # fmt: skip


def _value(record: Record, fields: Fields) -> Any:
    try:
        return value_of(record, fields.label)
    except FieldError:
        return None


def _names(value: Any) -> list[str]:
    """A label, or the tags of a sentence, as text: True is "true", 1.0 is "1"."""
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]
    if isinstance(value, (list, tuple)):
        return [name for each in value for name in _names(each)]
    return [str(value)] if isinstance(value, (str, int, float)) else []


def _order_names(names: set[str]) -> tuple[str, ...]:
    if all(name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
