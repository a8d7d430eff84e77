"""What a family declares of a published format: how its config and tensors are spelled."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
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

    model_type: its name in config.json; family: ours. expresses: the settings of ours that it
    expresses; all others must have their default. read: its fields to our config (the caller closes
    them). write: a config that it expresses to config.json, with the keys of transformers 4, which
    every reader of these files knows. table: the rows of a config. canonical: a name found in a
    file to the table's spelling, or None for a buffer that is not a weight. ties: what may be there
    twice, for a config. copies: {tensor: the name it is written under once more}. settle: the
    config with what the tensors' names add to it, those that will be drawn included. bare: the
    prefix of the tensors' names that their modules lack, in a class without a head.
    """

    model_type: str
    family: str
    expresses: Expressible
    read: Callable[[Fields], Any]
    write: Callable[[Any], Record]
    table: Callable[[Any], list[Row]]
    canonical: Callable[[str], str | None]
    ties: Callable[[Any], list[Tie]] = lambda config: []
    copies: Callable[[Any], Mapping[str, str]] = lambda config: {}
    settle: Callable[[Any, Collection[str]], Any] = lambda config, names: config
    bare: Callable[[Any], str] = lambda config: ""
