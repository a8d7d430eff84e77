"""What kind of checkpoint a folder is: whose config is in it, and how its weights are stored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso.export.families import elmo, slim
from gesso.export.files.tensors import FolderError, Tensors
from gesso.export.files.weights import open_weights, read_json
from gesso.export.formats import format_of
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format

CONFIG = "config.json"


@dataclass(frozen=True)
class Kind:
    """fields: of its config. weights: opens its tensors, when the config is known."""

    fields: Fields
    format: Format
    weights: Callable[[Any], Tensors]


def kind_of(folder: Path) -> Kind:
    """A folder of transformers (config.json), of ELMo (options.json) or of mesh-transformer-jax
    (shard_0).

    Raises FolderError for a folder with none of them, and for a model type that is not known.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}")
    if (shards := slim.shards_in(folder)) is not None:
        fields = slim.fields_in(folder, shards)
        return Kind(fields, slim.FORMAT, lambda config: slim.SlimTensors(shards, config))
    path = folder / CONFIG
    if path.is_file():
        record = read_json(path)
        fields = Fields(record, source=str(path))
        return Kind(fields, format_of(record), lambda config: open_weights(folder))
    if (fields := elmo.options_in(folder)) is not None:
        return Kind(fields, elmo.FORMAT, lambda config: elmo.weights_in(folder))
    there = ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "no files"
    raise FolderError(
        f"{folder} is not a known checkpoint: it has no {CONFIG} (transformers),"
        f" *{elmo.OPTIONS} (ELMo) or shard_0 (mesh-transformer-jax); there are {there}"
    )
