"""What every format declares that it expresses, and which formats express a given setting."""

import importlib
from collections.abc import Iterator

from gesso.export.formats import formats_of
from gesso.export.stacks.homes import HOMES
from gesso.export.tables.expressible import Declared, Inexpressible
from gesso.models.config import ModelConfig


def declarations(family: str) -> Iterator[tuple[str, Declared]]:
    """(the format's name for a user, its declaration) of every format that has the family."""
    for form in formats_of(family):
        yield f"hf ({form.model_type})", form.expresses
    for name, module in HOMES.items():
        declared: Declared | None = importlib.import_module(module).declaration(family)
        if declared is not None:
            yield name, declared


def with_others(error: Inexpressible, config: ModelConfig) -> Inexpressible:
    """The same refusal, with the formats that can express each of its settings."""
    able: dict[str, list[str]] = {problem.field: [] for problem in error.problems}
    for name, declared in declarations(config.family):
        lacks = {problem.field for problem in declared.problems(config)}
        for field in able.keys() - lacks:
            able[field].append(name)
    return Inexpressible(error.problems, before=error.before, instead=able)
