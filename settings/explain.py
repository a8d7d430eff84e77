"""The sentence under each field of a config, read from its source: for the help and the docs alike.

A config is a dataclass whose fields have a string below them, as this one's:

    steps: int = 100
    \"""Updates of the whole run.\"""

The first sentence stands alone in a short help; what follows it is for who wants to know more.
"""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value: TypeAlias = object  # of a field: a number, a text, a tuple, a dict or a config

_CONFIGS = "CONFIG ..."
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}
# A full stop that ends a sentence: behind it stands a capital, a number or a quoted word.
_END = re.compile(r"(?<!e\.g)(?<!i\.e)\.(?= +[\"'`A-Z(\d])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a config as a user sets it."""

    path: str
    """Dotted name, such as "optimizer.learning_rate"."""
    type: str
    """What it takes, in a word or two: INT, "TEXT ...", and NAME where there are choices."""
    choices: tuple[str, ...]
    """Names it may be, where it is one of a few."""
    value: Value
    """Value that it has unless it is set; dataclasses.MISSING where it must be set."""
    text: str
    """Its explanation; "" where none is written."""
    by_option: bool = True
    """Whether the command line can set it: it cannot begin a list of configs that is empty."""
    marks: tuple[object, ...] = ()
    """What its type is annotated with, such as tyro's Positional."""

    @property
    def default(self) -> str:
        """The value as a user reads it."""
        return spell(self.value)

    @property
    def option(self) -> str:
        """The command line's option; of a flag that is on, the one that switches it off."""
        group, _, name = self.path.rpartition(".")
        name = f"no-{name}" if self.value is True else name
        return "--" + (f"{group}.{name}" if group else name).replace("_", "-")

    @property
    def sentence(self) -> str:
        """The first sentence of its explanation."""
        return first_sentence(self.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The settings of one config inside another."""

    path: str
    """Dotted name, such as "optimizer.schedule"; "" for the outermost."""
    about: str
    """A few words for a list of groups: the sentence under the field that holds the config."""
    text: str
    """What they are for: the explanation of the config's class."""
    settings: tuple[Setting, ...]
    """The settings, without those of the groups inside this one."""


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    found = _END.search(text)
    return text[: found.end()] if found else text


def summary(config: type) -> str:
    """A config's own sentence: the docstring of its class on one line."""
    return " ".join((inspect.getdoc(config) or "").split())


def explanations(config: type) -> dict[str, str]:
    """{field: the text under it, on one line} of a dataclass; "" where none is written. A field
    that a class gives again, with another default, keeps the text it had in the class above."""
    found = {each.name: "" for each in dataclasses.fields(config)}
    for each in reversed(config.__mro__):
        if dataclasses.is_dataclass(each):
            found |= _below_fields(each.__module__, each.__qualname__)
    return {each.name: found[each.name] for each in dataclasses.fields(config)}


def groups(
    config: "DataclassInstance | type[DataclassInstance]", path: str = "", about: str = ""
) -> Iterator[Group]:
    """The settings of `config`, a dataclass or an instance of one, whose values are the defaults;
    first its own, then those of the configs inside it, in their order."""
    kind = config if isinstance(config, type) else type(config)
    hints, texts = typing.get_type_hints(kind, include_extras=True), explanations(kind)
    own: list[Setting] = []
    inside: list[Group] = []
    for field in dataclasses.fields(kind):
        value = _value(field) if isinstance(config, type) else getattr(config, field.name)
        at = f"{path}.{field.name}" if path else field.name
        for name, each in _parts(at, value):
            if dataclasses.is_dataclass(each):
                inside += groups(each, name, first_sentence(texts[field.name]))
            else:
                inside.append(_entries(name, each, hints[field.name], texts[field.name]))
        if not _parts(at, value):
            word, choices = _type(hints[field.name])
            text = texts[field.name]
            own.append(
                Setting(
                    path=at,
                    type=word,
                    choices=choices,
                    value=value,
                    text=text,
                    by_option=word != _CONFIGS,
                    marks=_marks(hints[field.name]),
                )
            )
    yield Group(path=path, about=about, text=summary(kind), settings=tuple(own))
    yield from inside


def configs_in(kind: object) -> Iterator[type]:
    """Every dataclass that a type names, and those inside them; of a union all members."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
        for each in typing.get_type_hints(kind).values():
            yield from configs_in(each)
    for each in typing.get_args(kind):
        yield from configs_in(each)


def spell(value: Value) -> str:
    """A value as a user writes it: 0.1, adamw, "" or "a b"; () and {} for nothing."""
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, str):
        return value if value and value == value.strip() and "\n" not in value else _quote(value)
    if isinstance(value, tuple | list):
        return " ".join(spell(each) for each in value) or "()"
    if isinstance(value, dict):
        return " ".join(f"{spell(k)} {spell(v)}" for k, v in value.items()) or "{}"
    return str(value)


def _quote(text: str) -> str:
    return '"' + text.replace("\t", "\\t").replace("\n", "\\n") + '"'


def _value(field: dataclasses.Field) -> Value:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _parts(path: str, value: Value) -> list[tuple[str, Value]]:
    """[(path, config or dict)] of a value that has settings of its own; else nothing. The command
    line reads a dict of numbers that has entries key by key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(path, value)]
    if isinstance(value, dict) and value:
        if not any(dataclasses.is_dataclass(each) for each in value.values()):
            return [(path, value)]
        return [(f"{path}.{name}", each) for name, each in value.items()]
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(each) for each in value):
        return [(f"{path}.{number}", each) for number, each in enumerate(value)]
    return []


def _entries(path: str, value: Value, hint: object, text: str) -> Group:
    assert isinstance(value, Mapping)
    word, choices = _type(typing.get_args(hint)[1])
    return Group(
        path=path,
        about=first_sentence(text),
        text=text,
        settings=tuple(
            Setting(path=f"{path}.{key}", type=word, choices=choices, value=each, text=text)
            for key, each in value.items()
        ),
    )


def _marks(hint: object) -> tuple[object, ...]:
    if typing.get_origin(hint) is not typing.Annotated:
        return ()
    return typing.get_args(hint)[1:]


def _type(hint: object) -> tuple[str, tuple[str, ...]]:
    """(what a setting takes in a word or two, the names it may be)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, dict) and any(dataclasses.is_dataclass(each) for each in args):
        return _CONFIGS, ()
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        numbers = all(isinstance(each, int) for each in args)
        return ("INT" if numbers else "NAME"), tuple(spell(each) for each in args)
    if origin in (typing.Union, types.UnionType):
        return _type(next(each for each in args if each is not type(None)))
    if origin is tuple:
        members = [each for each in args if each is not Ellipsis]
        words = " ".join(_type(each)[0] for each in members)
        choices = _type(members[0])[1] if len(members) == 1 else ()
        return words + (" ..." if Ellipsis in args else ""), choices
    if origin is dict:
        return " ".join(_type(each)[0] for each in args) + " ...", ()
    return _WORDS.get(hint, "TEXT") if isinstance(hint, type) else "TEXT", ()


@functools.cache
def _below_fields(module: str, qualname: str) -> dict[str, str]:
    """{field: the text under it} of the fields that a class of a module writes down itself."""
    for node in _classes(module):
        if node.name == qualname.rpartition(".")[2]:
            pairs = zip(node.body, node.body[1:], strict=False)
            return {
                field.target.id: " ".join(below.value.value.split())
                for field, below in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return {}


@functools.cache
def _classes(module: str) -> tuple[ast.ClassDef, ...]:
    file = sys.modules[module].__file__ if module in sys.modules else None
    if not file or not file.endswith(".py"):
        return ()
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return tuple(node for node in tree.body if isinstance(node, ast.ClassDef))
