"""The fields of a family of tasks: what type each has, and what a record must bring."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gesso.settings.nearest import did_you_mean

# A record as its file has it, and the values of its fields once they are checked, by name.
Record = Mapping[str, Any]
Values = dict[str, Any]

TYPES = ("text", "texts", "number", "label", "choices", "choice")


class FieldError(ValueError):
    """A record that is not an example. reason: a key of finetune.instructions.examples.REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field. type: "text"; "texts", a list of them; "number"; "label", one of the family's
    labels, by name or index; "choices", the possible answers of this example; "choice", the right
    one of these, by text, index or letter. optional: an example may lack it, or have it empty."""

    name: str
    type: str
    optional: bool


def parse_fields(spec: Record, *, where: str) -> dict[str, Field]:
    """{"premise": "text", "context": "text?"} -> {name: Field}. Raises ValueError."""
    fields = {}
    for name, asked in spec.items():
        kind = str(asked).removesuffix("?")
        if kind not in TYPES:
            raise ValueError(
                f"{where}: field {name!r} has type {asked!r}{did_you_mean(kind, TYPES)}; types are"
                f" {', '.join(TYPES)}, with ? behind where it may be missing"
            )
        fields[name] = Field(name=name, type=kind, optional=str(asked).endswith("?"))
    return fields


def check_record(record: Record, fields: Mapping[str, Field], *, labels: tuple[str, ...]) -> Values:
    """The fields' values of a record: text str, texts and choices tuple, label and choice int.

    Numbers become text. Optional fields that are missing or empty are left out. Raises FieldError.
    """
    made: Values = {}
    for name, field in fields.items():
        value = record.get(name)
        if value is None or value in ("", []):
            if field.optional:
                continue
            if name in record:
                raise FieldError("empty_field", f"{name!r} is empty")
            raise FieldError(
                "missing_field",
                f"no {name!r}{did_you_mean(name, record)}; it has {', '.join(record)}",
            )
        made[name] = _value(value, field, made, labels)
    return made


def _value(value: Any, field: Field, made: Values, labels: tuple[str, ...]) -> Any:
    name = field.name
    if field.type in ("text", "number"):
        return _text(value, name)
    if field.type in ("texts", "choices"):
        if not isinstance(value, (list, tuple)):
            raise FieldError("wrong_type", f"{name!r} is not a list but {value!r:.80}")
        texts = tuple(_text(each, name) for each in value)
        if field.type == "choices" and not 2 <= len(set(texts)) == len(texts):
            raise FieldError("wrong_type", f"{name!r} must be two or more different texts")
        return texts
    if field.type == "label":
        return _member(value, labels, name=name, reason="unknown_label")
    choices = next((each for each in made.values() if isinstance(each, tuple)), ())
    return _member(value, choices, name=name, reason="unknown_label")


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


def _member(value: Any, known: tuple[str, ...], *, name: str, reason: str) -> int:
    # By text first: the texts of choices may be numbers themselves.
    text = str(value)
    if not isinstance(value, bool) and text in known:
        return known.index(text)
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, str) and len(text) == 1 and text.isascii() and text.isalpha():
        value = ord(text.upper()) - ord("A")
    elif isinstance(value, str) and text.isdigit():
        value = int(text)
    if isinstance(value, int) and 0 <= value < len(known):
        return value
    raise FieldError(
        reason, f"{name!r} is {text!r:.80}, none of {', '.join(known)}{did_you_mean(text, known)}"
    )
