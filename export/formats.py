"""The published formats: how each family's config and tensors are spelled, and which fits what."""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gesso.export.files.tensors import FolderError
from gesso.export.tables.fields import Fields
from gesso.export.tables.tables import Row


@dataclass(frozen=True)
class Tie:
    """Two names for one tensor, in a model that shares it. other: the name that may be absent.
    differs: settings that change when both are there and differ. Without any, `wins` says what is
    read then: the other, and nobody reads the first, or neither, which is refused."""

    other: str
    name: str
    differs: Mapping[str, Any] = field(default_factory=dict)
    wins: Literal["other", "neither"] = "neither"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One published model type.

    model_type: its name in config.json; family: ours. read: its fields to our config (the caller
    closes them). write: our config to (config.json with the keys of transformers 4, which every
    reader of these files knows, and what it cannot say). table: the rows of a config. canonical: a
    name found in a file to the table's spelling, or None for a buffer that is no weight. ties: what
    may be there twice, for a config. copies: {tensor: the name it is written under once more}.
    settle: the config with what the tensors' names add to it, those that will be drawn included.
    bare: the prefix of the tensors' names that their modules lack, in a class without a head.
    """

    model_type: str
    family: str
    read: Callable[[Fields], Any]
    write: Callable[[Any], tuple[dict[str, Any], list[str]]]
    table: Callable[[Any], list[Row]]
    canonical: Callable[[str], str | None]
    ties: Callable[[Any], list[Tie]] = lambda config: []
    copies: Callable[[Any], Mapping[str, str]] = lambda config: {}
    settle: Callable[[Any, Collection[str]], Any] = lambda config, names: config
    bare: Callable[[Any], str] = lambda config: ""


# model_type -> the module whose FORMATS has it, in the order they are tried for a config of ours.
_HOME = {
    "openai-gpt": "gesso.export.families.gpt",
    "gpt2": "gesso.export.families.gpt",
    "gpt_neo": "gesso.export.families.gpt",
    "gptj": "gesso.export.families.gpt",
    "gpt_neox": "gesso.export.families.gpt",
    "t5": "gesso.export.families.t5",
    "bert": "gesso.export.families.bert",
    "roberta": "gesso.export.families.bert",
    "xlm-roberta": "gesso.export.families.bert",
    "camembert": "gesso.export.families.bert",
    "encoder-decoder": "gesso.export.families.encoder_decoder",
}


def format_of(record: Mapping[str, Any]) -> Format:
    """The format of a config.json. FolderError for a model type that is not known."""
    name = record.get("model_type")
    if name not in _HOME:
        raise FolderError(
            f"config.json is of model_type {name!r}; these can be read: {', '.join(_HOME)}"
        )
    return importlib.import_module(_HOME[name]).FORMATS[name]


def format_for(config: Any) -> Format:
    """The format that says a config of ours. FolderError naming the settings none can say."""
    nearest: list[str] | None = None
    for name, module in _HOME.items():
        each: Format = importlib.import_module(module).FORMATS[name]
        if each.family != config.family:
            continue
        problems = each.write(config)[1]
        if not problems:
            return each
        if nearest is None or len(problems) < len(nearest):
            nearest = problems
    if nearest is None:
        other = "; use the format elmo" if config.family == "elmo" else ""
        raise FolderError(f"transformers has no model of the family {config.family}{other}")
    raise FolderError(
        "no published format has a model of these settings; the nearest lacks: "
        + "; ".join(nearest)
    )
