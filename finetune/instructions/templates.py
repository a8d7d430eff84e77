"""Declarative templates: families of tasks, their fields, and the many ways to ask for an answer.

A template is data: text with {fields} in it. str.format's syntax without attributes, indices and
conversions, so that all it needs is known when it is read, and nothing in an example is ever code
or parsed again. (Chat templates are published in jinja2; finetune/instructions/chat.py renders
those.)
"""

import functools
import hashlib
import string
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso.finetune.instructions.fields import Field, Record, Values, check_record, parse_fields
from gesso.settings.nearest import did_you_mean

FOLDER = Path(__file__).parent / "families"
# What a template may name beside its family's fields.
DERIVED = ("answer", "options")
# The optional field that holds the way to the answer.
RATIONALE = "rationale"
_FAMILY_KEYS = {"fields", "labels", "templates"}
_TEMPLATE_KEYS = {"name", "prompt", "target", "answers", "inverted"}


class TemplateError(ValueError):
    """A family or template that cannot be used. The message names file, family and template."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """prompt, target: text with {fields}. answers: how the family's labels are said here, in their
    order. inverted: asks for what is given elsewhere, given what is asked elsewhere. names: the
    fields it needs."""

    name: str
    prompt: str
    target: str
    answers: tuple[str, ...]
    inverted: bool
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of task. cluster: kinds that would help each other too much to test one on the others.

    answering: the field that holds the answer (of type label or choice), or "".
    """

    name: str
    cluster: str
    fields: Mapping[str, Field]
    labels: tuple[str, ...]
    templates: tuple[Template, ...]
    answering: str

    def check(self, record: Record) -> Values:
        """A record's values by field, as check_record gives them. Raises FieldError."""
        return check_record(record, self.fields, labels=self.labels)

    def fitting(self, values: Record, *, inverted: bool) -> list[Template]:
        """The templates that need no more than an example has; of those that are not inverted, the
        ones that leave out nothing optional that it has, but for the rationale."""
        has = {name for name in values if self.fields[name].optional} - {RATIONALE}
        return [
            each
            for each in self.templates
            if each.inverted == inverted
            and each.names <= values.keys()
            and (inverted or has <= each.names)
        ]

    def options(self, template: Template, values: Record) -> tuple[str, ...]:
        """The possible answers, as this template says them; empty where there are none, or where
        the template lists them itself or asks for something else."""
        listed = {f"{{{f.name}}}" for f in self.fields.values() if f.type == "choices"}
        if "{answer}" not in template.target or any(each in template.prompt for each in listed):
            return ()
        return _answers(self, template, values)

    def render(
        self, template: Template, values: Record, *, options: tuple[str, ...] = ()
    ) -> tuple[str, str]:
        """(prompt, target) of an example. options: what to list after the question."""
        shown = dict(values)
        if self.answering in values and "answer" in template.names | {"answer"}:
            shown["answer"] = _answers(self, template, values)[values[self.answering]]
        texts = {name: _show(value) for name, value in shown.items()}
        listed = "\n\nOPTIONS:\n" + _show(options) if options else ""
        if "{options}" in template.prompt:
            prompt = template.prompt.replace("\n{options}", "{options}").format_map(
                texts | {"options": listed}
            )
        else:
            prompt = template.prompt.format_map(texts) + listed
        return prompt, template.target.format_map(texts)


@functools.cache
def families() -> dict[str, Family]:
    """Our own families by name, from finetune/instructions/families/*.toml."""
    return read_families(sorted(FOLDER.glob("*.toml")))


def read_families(paths: Iterable[str | Path]) -> dict[str, Family]:
    """The families of TOML files, by name. Raises TemplateError, naming the file and the place."""
    found: dict[str, Family] = {}
    for path in paths:
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise TemplateError(f"{path}: cannot be read: {error}") from None
        cluster = content.pop("cluster", "")
        if not isinstance(cluster, str) or not cluster:
            raise TemplateError(f'{path}: needs a first line cluster = "..."')
        for name, table in content.items():
            if name in found:
                raise TemplateError(f"{path}: family {name!r} is there twice")
            found[name] = parse_family(name, table, cluster=cluster, where=str(path))
    return found


def parse_family(name: str, table: Any, *, cluster: str, where: str) -> Family:
    """A family out of its TOML table. Raises TemplateError."""
    where = f"{where}: family {name!r}"
    if not isinstance(table, dict):
        raise TemplateError(f"{where} must be a table")
    _only(table, _FAMILY_KEYS, where)
    try:
        fields = parse_fields(table["fields"], where=where)
    except KeyError:
        raise TemplateError(f"{where} has no fields") from None
    except ValueError as error:
        raise TemplateError(str(error)) from None
    clash = [each for each in DERIVED if each in fields]
    if clash:
        raise TemplateError(f"{where}: a field cannot be called {clash[0]!r}, that one is derived")
    answering = [each.name for each in fields.values() if each.type in ("label", "choice")]
    labels = tuple(map(str, table.get("labels", ())))
    if len(answering) > 1:
        raise TemplateError(f"{where}: fields {' and '.join(answering)} both hold the answer")
    if any(each.type == "label" for each in fields.values()) != bool(labels):
        raise TemplateError(f"{where}: labels and a field of type label go together")
    if any(f.type == "choice" for f in fields.values()) and not any(
        f.type == "choices" for f in fields.values()
    ):
        raise TemplateError(f"{where}: a choice needs a field of type choices before it")
    family = Family(
        name=name,
        cluster=cluster,
        fields=fields,
        labels=labels,
        templates=(),
        answering=answering[0] if answering else "",
    )
    made = [_template(each, family, where) for each in table.get("templates", ())]
    names = [each.name for each in made]
    if twice := {each for each in names if names.count(each) > 1}:
        raise TemplateError(f"{where}: two templates are called {sorted(twice)[0]!r}")
    if all(each.inverted for each in made):
        raise TemplateError(f"{where} needs a template that is not inverted")
    return Family(**{**vars(family), "templates": tuple(made)})


def fingerprint(family: Family) -> str:
    """sha256 (hex) of all that a family decides."""
    fields = [(each.name, each.type, each.optional) for each in family.fields.values()]
    templates = [(t.name, t.prompt, t.target, t.answers, t.inverted) for t in family.templates]
    parts = (family.name, fields, family.labels, templates)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _template(table: Any, family: Family, where: str) -> Template:
    where = f"{where}, template {table.get('name', '?')!r}"
    _only(table, _TEMPLATE_KEYS, where)
    if missing := [key for key in ("name", "prompt", "target") if not table.get(key)]:
        raise TemplateError(f"{where} has no {missing[0]}")
    known = [*family.fields, *(DERIVED if family.answering else ())]
    parts = {}
    for part in ("prompt", "target"):
        parts[part] = _names(table[part], where=f"{where}, {part}")
        for each in sorted(parts[part]):
            if each not in known:
                raise TemplateError(
                    f"{where}: its {part} names {{{each}}}, which the family has not"
                    f"{did_you_mean(each, known)}; it has {', '.join(known)}"
                )
    # A label's own field is said in words, by {answer}.
    given, asked = (parts[part] - {"options"} for part in ("prompt", "target"))
    if family.answering in given | asked:
        raise TemplateError(f"{where}: say {{answer}}, not {{{family.answering}}}")
    if "options" in parts["target"] or not asked:
        raise TemplateError(f"{where}: its target needs a field that depends on the example")
    if told := given & asked:
        raise TemplateError(f"{where}: its prompt already tells {{{sorted(told)[0]}}}")
    answers = tuple(map(str, table.get("answers", family.labels)))
    if len(answers) != len(family.labels) or len(set(answers)) != len(answers):
        raise TemplateError(
            f"{where}: answers must be {len(family.labels)} different texts, one for each of"
            f" {', '.join(family.labels) or 'no labels'}"
        )
    needs = {family.answering if each == "answer" else each for each in given | asked}
    return Template(
        name=str(table["name"]),
        prompt=table["prompt"].strip("\n"),
        target=table["target"].strip(),
        answers=answers,
        inverted=bool(table.get("inverted", False)),
        names=frozenset(needs),
    )


def _names(text: str, *, where: str = "") -> set[str]:
    names = set()
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(f"{where}: {error}; write a brace itself as {{{{ or }}}}") from None
    for _, name, form, conversion in parsed:
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise TemplateError(f"{where}: {{{name}}} is not a plain field name")
        names.add(name)
    return names


def _only(table: Record, known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise TemplateError(f"{where}: no setting {key!r}{did_you_mean(key, known)}")


def _answers(family: Family, template: Template, values: Record) -> tuple[str, ...]:
    if family.labels:
        return template.answers
    return next(values[f.name] for f in family.fields.values() if f.type == "choices")


def _show(value: Any) -> str:
    return "\n".join(f"- {each}" for each in value) if isinstance(value, tuple) else str(value)
