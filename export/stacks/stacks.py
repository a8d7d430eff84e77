"""Every format that is not a folder of transformers: `write_stack`."""

import dataclasses
import importlib
import os
from typing import Literal, get_args

import numpy as np

from gesso.export.agreement import Written
from gesso.export.files.tensors import FolderError, Record
from gesso.export.stacks.declared import with_others
from gesso.export.stacks.homes import HOMES, Stack
from gesso.export.tables.expressible import Inexpressible
from gesso.export.tables.tables import Tree
from gesso.export.tokenizers.files import GivenTokenizer
from gesso.models import build
from gesso.models.config import ModelConfig
from gesso.models.model import Params
from gesso.models.trees import flat, nest

STACKS: tuple[Stack, ...] = get_args(Stack)


def write_stack(
    path: str | os.PathLike[str],
    config: ModelConfig,
    params: Tree,
    tokenizer: GivenTokenizer = None,
    *,
    format: Stack,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    vocab: int = 0,
) -> Written:
    """Write a model for another stack into a new folder; the arguments are those of write_folder.

    What was written is read back, or run, and compared with `params` before the folder gets its
    name. Raises FolderError as write_folder does, for a format that cannot express the model,
    naming the settings and the formats that can, and for one whose package is not installed.
    """
    if format not in HOMES:
        raise FolderError(f"there is no format {format!r}; these are: {', '.join(HOMES)}")
    options: Record = {"dtype": dtype}
    if format == "onnx":
        if dtype != "float32":
            raise FolderError(
                f"ONNX is written in float32, not {dtype}; onnxruntime's own tools make it smaller"
            )
        options = {}
    if vocab:
        config, params = crop(config, params, vocab=vocab)
    writer = importlib.import_module(HOMES[format])
    try:
        return writer.write(path, config, params, tokenizer=tokenizer, **options)
    except Inexpressible as error:
        raise with_others(error, config) from None


def crop(config: ModelConfig, params: Tree, *, vocab: int) -> tuple[ModelConfig, Params]:
    """The model with the first `vocab` rows of its vocabulary. FolderError where it has fewer, or
    a vocabulary for each side."""
    if "vocab" not in {field.name for field in dataclasses.fields(config)}:
        raise FolderError(f"{config.family} models have no vocabulary of their own to cut")
    if vocab > config.vocab:
        raise FolderError(f"vocab {vocab} is more than the model's {config.vocab} rows")
    letters, kept = flat(build(config).letters), flat(params)
    for path, each in letters.items():
        if "V" in each:
            rows = tuple(slice(0, vocab) if letter == "V" else slice(None) for letter in each)
            kept[path] = np.asarray(kept[path])[rows]
    return dataclasses.replace(config, vocab=vocab), nest(kept)
