"""Our config, parameters and tokenizer as a published folder: `write_folder`."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Literal

from gesso.export.agreement import Written, compare, on_device
from gesso.export.files.folder import new_folder
from gesso.export.files.tensors import FolderError
from gesso.export.files.weights import RECORD, export_record
from gesso.export.formats import Format, format_for
from gesso.export.stacks.declared import with_others
from gesso.export.tables.expressible import Inexpressible
from gesso.export.tables.tables import Paths, Resize, Tree, by_path, places, slots
from gesso.export.tokenizers.files import GivenTokenizer, files_of
from gesso.export.writing_weights import write_weights
from gesso.models import build
from gesso.models.config import ModelConfig
from gesso.storage.files import write_json

# Readers load shard by shard; 5 GB is what transformers writes.
SHARD_BYTES = 5_000_000_000


def write_folder(
    path: str | os.PathLike[str],
    config: ModelConfig,
    params: Tree,
    tokenizer: GivenTokenizer = None,
    *,
    format: Literal["hf"] = "hf",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    vocab: int = 0,
    max_shard_bytes: int = SHARD_BYTES,
    card: str = "",
) -> Written:
    """Write config.json, safetensors, tokenizer files and README.md (`card`) into a new folder.

    params: nested, or export.tables.tables.Paths, of which no more is read at once than one tensor
        takes.
    tokenizer: ours (data.load_tokenizer), the files of an imported one ({name: bytes}), or None.
    dtype: of the weights in the files. vocab: rows to keep of the vocabulary (0: all).

    The folder gets its name when everything in it is on disk, has been read back, and gives the
    outputs of `params` within the bound that `dtype` has (export.agreement.BOUNDS). Raises
    FolderError for a folder that holds anything but an earlier export, for settings that no
    published format has, for values that are not finite (in `dtype`), and where outputs differ.
    """
    if format != "hf":
        raise FolderError(f"there is no folder format {format!r}; this one is 'hf'")
    try:
        form = format_for(config)
    except Inexpressible as error:
        raise with_others(error, config) from None
    said = dataclasses.replace(config, vocab=vocab) if vocab else config
    if vocab > config.vocab:
        raise FolderError(f"vocab {vocab} is more than the model's {config.vocab} rows")
    made = files_of(tokenizer, model_type=form.model_type, vocab=said.vocab, longest=config.longest)
    with new_folder(Path(path), mine=lambda folder: bool(export_record(folder))) as part:
        placed: dict[str, Any] = {}
        given = Paths(by_path(params), functools.partial(_read, by_path(params), placed))
        checksums = _write(part, form, config, said, given, dtype, max_shard_bytes)
        for name, content in made.files.items():
            (part / name).write_bytes(content)
        # RoBERTa's padding id is a matter of the model: it says where positions begin.
        record = made.ids | form.write(said) | {"torch_dtype": dtype}
        write_json(part / "config.json", record)
        if card:
            (part / "README.md").write_text(card)
        about = {"format": 1, "model_type": form.model_type, "dtype": dtype, "tensors": checksums}
        write_json(part / RECORD, about)
        agreement = compare(part, config, Paths(placed, placed.pop), dtype=dtype)
        files = {each.name: each.stat().st_size for each in sorted(part.iterdir())}
    return Written(
        folder=Path(path),
        model_type=form.model_type,
        dtype=dtype,
        files=files,
        agreement=agreement,
    )


def _read(params: Tree, placed: dict[str, Any], path: str) -> Any:
    """A parameter to be written, which from now on is also where the model will be run."""
    x = params[path]
    placed[path] = on_device(x)
    return x


def _write(
    part: Path,
    form: Format,
    config: ModelConfig,
    said: ModelConfig,
    given: Paths,
    dtype: str,
    max_shard_bytes: int,
) -> dict[str, int]:
    cropped = {"V": Resize(said.vocab)} if said.vocab != config.vocab else {}
    found = places(form.table(config), slots(build(config)), resized=cropped)
    if given.keys() != (wanted := {path for place in found for path in place.ours}):
        differ = ", ".join(sorted(given.keys() ^ wanted)[:5])
        raise FolderError(f"these parameters are not those of the config: {differ}")
    return write_weights(
        part,
        found,
        given,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        copies=form.copies(said),
    )
