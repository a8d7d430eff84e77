"""Files of examples, read: every record becomes an example of a task or a reject with its place.

Nothing is dropped in silence: records = examples + rejects + what a limit left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gesso.finetune.instructions.config import SourceConfig
from gesso.finetune.instructions.fields import FieldError, Record, Values
from gesso.finetune.instructions.files import Item, items_of
from gesso.finetune.instructions.templates import Family
from gesso.settings.nearest import did_you_mean

REASONS = {
    "bad_json": "not JSON",
    "not_an_object": "JSON, but no object",
    "invalid_utf8": "not UTF-8",
    "wrong_columns": "another number of columns than the header",
    "blank_line": "nothing but white space",
    "missing_field": "a field of the family is not there",
    "empty_field": "a field is there and empty",
    "empty_target": "there is nothing to answer",
    "wrong_type": "a field holds something else than its type",
    "unknown_label": "an unknown answer",
    "lone_surrogate": "half of a UTF-16 pair, which UTF-8 cannot hold",
    "bad_chat": "messages that do not form a conversation, or that the chat template refuses",
}
# Nothing is lost with these, so they do not count against the cap.
HARMLESS = frozenset({"blank_line"})
# What a format is, unless the source says otherwise.
FAMILIES = {
    "alpaca": "instruction",
    "self_instruct": "instruction",
    "natural_instructions": "instruction",
    "flan": "verbatim",
    "gsm8k": "word_problem",
}
CHAT = "chat"


class SourceRefused(ValueError):
    """A source that cannot be read at all, or has more bad records than is tolerated."""


class Reject(NamedTuple):
    """A refused record. place: file and line (or item); head: its beginning, for a person."""

    place: str
    reason: str
    detail: str
    head: str


class Example(NamedTuple):
    """values: by field, as Family.check gives them; {"messages": [...]} of a chat."""

    values: Values
    place: str


@dataclass
class Task:
    """Examples that share templates and may stand in each other's prompts. family None: chat."""

    name: str
    cluster: str
    family: Family | None
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A source, read. records = examples of all tasks + rejects + over_limit."""

    source: SourceConfig
    tasks: Sequence[Task]
    rejects: Sequence[Reject]
    records: int
    over_limit: int

    def reasons(self) -> dict[str, int]:
        """{reason: rejects}."""
        return dict(sorted(Counter(each.reason for each in self.rejects).items()))


def load(
    source: SourceConfig, *, families: Mapping[str, Family], reject_cap: float = 0.05
) -> Loaded:
    """Read a source. Raises SourceRefused for a missing or empty file, an unknown family or field,
    and when more than `reject_cap` of the records are bad; all with what to do."""
    family = _family(source, families)
    tasks: dict[str, Task] = {}
    rejects: list[Reject] = []
    records = kept = 0
    name = source.task or Path(source.path.removeprefix("tfds:").split(":")[0]).name.split(".")[0]
    cluster = source.cluster or (family.cluster if family else CHAT)
    for item in items_of(source):
        records += 1
        if isinstance(item.record, tuple):
            rejects.append(Reject(item.place, *item.record, item.head))
            continue
        if source.limit and kept >= source.limit:
            continue
        try:
            values = _values(item.record, source, family)
        except FieldError as error:
            rejects.append(Reject(item.place, error.reason, str(error), item.head))
            continue
        whole = f"{name}/{item.task}" if item.task else name
        task = tasks.setdefault(whole, Task(whole, cluster, family))
        task.examples.append(Example(values, item.place))
        kept += 1
    loaded = Loaded(
        source=source,
        tasks=tuple(tasks.values()),
        rejects=tuple(rejects),
        records=records,
        over_limit=records - kept - len(rejects),
    )
    _judge(loaded, reject_cap)
    return loaded


def _family(source: SourceConfig, families: Mapping[str, Family]) -> Family | None:
    if source.format == "chat":
        if source.family or source.labels:
            raise SourceRefused(f"{source.path}: chats have no family and no labels")
        return None
    name = source.family or FAMILIES.get(source.format, "")
    if name not in families:
        raise SourceRefused(
            f"{source.path}: no family {name!r}{did_you_mean(name, families)}; set family to one of"
            f" {', '.join(sorted(families))}"
        )
    family = families[name]
    for asked in source.fields:
        if asked not in family.fields:
            raise SourceRefused(
                f"{source.path}: family {name!r} has no field {asked!r}"
                f"{did_you_mean(asked, family.fields)}; it has {', '.join(family.fields)}"
            )
    if source.labels and len(source.labels) != len(family.labels):
        raise SourceRefused(
            f"{source.path}: labels must be {len(family.labels)}, one for each of"
            f" {', '.join(family.labels) or 'none'}, not {len(source.labels)}"
        )
    return family


def _values(record: Record, source: SourceConfig, family: Family | None) -> Values:
    if family is None:
        return {"messages": _messages(record)}
    named = dict(record)
    for ours, theirs in source.fields.items():
        named.pop(ours, None)
        value: Any = record
        for key in theirs.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise FieldError(
                    "missing_field",
                    f"no {theirs!r}{did_you_mean(theirs, record)}; it has"
                    f" {', '.join(map(str, record))}",
                )
            value = value[key]
        named[ours] = value
    if source.labels and family.answering in named:
        value = str(named[family.answering])
        if value not in source.labels:
            raise FieldError(
                "unknown_label",
                f"{family.answering!r} is {value!r:.80}, none of {', '.join(source.labels)}"
                f"{did_you_mean(value, source.labels)}",
            )
        named[family.answering] = family.labels[source.labels.index(value)]
    try:
        return family.check(named)
    except FieldError as error:
        if error.reason == "empty_field" and f"{str(error).split()[0][1:-1]}" in _target_fields(
            family
        ):
            raise FieldError("empty_target", str(error)) from None
        raise


def _target_fields(family: Family) -> set[str]:
    """The fields that templates ask for, but for inverted ones."""
    return {
        name
        for template in family.templates
        if not template.inverted
        for name in family.fields
        if f"{{{name}}}" in template.target
    }


def _messages(record: Record) -> list[Values]:
    messages = record.get("messages", record.get("conversations"))
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        raise FieldError("missing_field", "no list of 'messages'")
    # ShareGPT's names beside OpenAI's.
    roles = {"human": "user", "gpt": "assistant"}
    made = []
    for each in messages:
        role, content = each.get("role", each.get("from")), each.get("content", each.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise FieldError("bad_chat", f"a message needs role and content: {each!r:.80}")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise FieldError("lone_surrogate", "a message has half of a UTF-16 pair") from None
        made.append({**each, "role": roles.get(role, role), "content": content})
    if not any(each["role"] == "assistant" and each["content"].strip() for each in made):
        raise FieldError("empty_target", "the assistant says nothing")
    return made


def _judge(loaded: Loaded, cap: float) -> None:
    path = loaded.source.path
    bad = [each for each in loaded.rejects if each.reason not in HARMLESS]
    if bad and len(bad) > cap * loaded.records:
        first = "; ".join(f"{r.place}: {r.reason}: {r.detail:.200}" for r in bad[:3])
        raise SourceRefused(
            f"{path}: {len(bad):,} of {loaded.records:,} records are bad, more than reject_cap"
            f" {cap:.1%} allows ({loaded.reasons()}). First ones: {first}. Repair the file, correct"
            " format, family or fields, or raise reject_cap"
        )
    if not loaded.tasks:
        raise SourceRefused(f"{path}: no examples in it ({loaded.records:,} records)")


def lines_of(rejects: Sequence[Reject]) -> Iterator[dict[str, str]]:
    """The rejects as JSON records."""
    return (each._asdict() for each in rejects)


__all__ = ["Example", "Item", "Loaded", "Reject", "SourceRefused", "Task", "lines_of", "load"]
