"""A model as ELMo's files: options.json, weights.hdf5, softmax.hdf5 and vocab.txt."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gesso.export.agreement import Written, compare
from gesso.export.families import elmo_options
from gesso.export.families.elmo import OPTIONS, SOFTMAX, WEIGHTS, table
from gesso.export.files.hdf5 import h5py, write_hdf5
from gesso.export.files.tensors import FolderError
from gesso.export.stacks.shared import finish, fits, new_export
from gesso.export.tables.expressible import Declared, refuse
from gesso.export.tables.tables import Tree, places, slots, write_tensors
from gesso.export.tokenizers.files import GivenTokenizer
from gesso.models import build
from gesso.models.config import ELMoConfig, ModelConfig
from gesso.models.trees import flat

WORDS, BEYOND = "vocab.txt", "words_beyond.txt"


def declaration(family: str) -> Declared | None:
    """What ELMo's files express of a family's config."""
    return elmo_options.EXPRESSES if family == "elmo" else None


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Tree,
    *,
    tokenizer: GivenTokenizer = None,
    dtype: str = "float32",
) -> Written:
    """Write options.json, weights.hdf5, softmax.hdf5 and vocab.txt into a new folder.

    tokenizer: ours of words, whose classes become the vocabulary; the files of an imported one; or
    None. What was written is read back and must give the outputs of `params`. Raises FolderError
    as export.write_folder does, and for a dtype that readers of these files do not have.
    """
    if not isinstance(config, ELMoConfig):
        raise FolderError(f"options.json and HDF5 are ELMo's files; this is a {config.family}")
    if dtype != "float32":
        raise FolderError(f"ELMo's files are read as float32 and written so, not as {dtype}")
    refuse(elmo_options.EXPRESSES, config)
    options = elmo_options.write(config)
    h5py()
    found = places(table(config), slots(build(config)))
    fits(found, params)
    heads = [each for each in found if each.row.theirs.startswith("softmax/")]
    kept = [each for each in found if each not in heads]
    words = words_of(tokenizer, config)
    given, float32 = flat(params), np.dtype(np.float32)
    with new_export(folder) as part:
        sums = write_hdf5(part / WEIGHTS, write_tensors(kept, given, dtype=float32))
        if heads:
            sums |= write_hdf5(part / SOFTMAX, write_tensors(heads, given, dtype=float32))
        (part / OPTIONS).write_text(json.dumps(options, indent=1) + "\n")
        for name, content in words.items():
            (part / name).write_bytes(content)
        agreement = compare(part, config, params, dtype=dtype)
        return finish(
            part, folder, model_type="elmo", dtype=dtype, agreement=agreement, tensors=sums
        )


def words_of(tokenizer: GivenTokenizer, config: ELMoConfig) -> dict[str, bytes]:
    """vocab.txt, a word per line, those of the softmax; and, for our own reading again, what a word
    is and the words that are only read by their letters."""
    if tokenizer is None or isinstance(tokenizer, Mapping):
        return dict(tokenizer or {})
    if tokenizer.kind != "words":
        raise FolderError(
            f"ELMo's vocabulary is one of words, and this run's tokenizer is of {tokenizer.kind}"
        )
    if config.head != "none" and tokenizer.classes > config.vocab:
        raise FolderError(
            f"the tokenizer has {tokenizer.classes} classes, and the softmax {config.vocab} rows"
        )
    files = dict(tokenizer.payload())
    words = files[WORDS].split(b"\n")[:-1]
    files[WORDS] = _lines(words[: tokenizer.classes])
    if beyond := words[tokenizer.classes :]:
        files[BEYOND] = _lines(beyond)
    return files


def _lines(words: list[bytes]) -> bytes:
    return b"\n".join([*words, b""])
