"""The published formats: the one of a config.json, and the one that fits a config of ours."""

import importlib
from collections.abc import Iterator

from gesso.export.families.homes import HOMES
from gesso.export.files.tensors import FolderError, Record
from gesso.export.tables.expressible import Inexpressible, Problem
from gesso.export.tables.format import Format
from gesso.models.config import ModelConfig


def format_of(record: Record) -> Format:
    """The format of a config.json. FolderError for a model type that is not known."""
    name = record.get("model_type")
    if name not in HOMES:
        raise FolderError(
            f"config.json is of model_type {name!r}; these can be read: {', '.join(HOMES)}"
        )
    return _load(name)


def formats_of(family: str) -> Iterator[Format]:
    """The published formats of one of our families, in the order they are tried."""
    return (each for each in map(_load, HOMES) if each.family == family)


def format_for(config: ModelConfig) -> Format:
    """The first format that expresses a config of ours. Inexpressible, with the problems of the
    nearest one, where there is none; FolderError for a family that transformers does not have."""
    nearest: list[Problem] | None = None
    for each in formats_of(config.family):
        problems = each.expresses.problems(config)
        if not problems:
            return each
        if nearest is None or len(problems) < len(nearest):
            nearest = problems
    if nearest is None:
        other = "; use the format elmo" if config.family == "elmo" else ""
        raise FolderError(f"transformers has no model of the family {config.family}{other}")
    before = "no published format has a model of these settings; the nearest lacks: "
    raise Inexpressible(nearest, before=before)


def _load(model_type: str) -> Format:
    return importlib.import_module(HOMES[model_type]).FORMATS[model_type]
