"""A params-only Orbax checkpoint with its config beside it, for other JAX code.

    params/        what `orbax.checkpoint` reads: nested dicts of arrays, by our names
    config.json    our config, and the letters of every array
    tokenizer.json and its kin, where there is a tokenizer; of ELMo vocab.txt

`StandardCheckpointer().restore(folder / "params")` is all a reader needs, and so is version 1's
`load`: it reads this older layout, while code of before it does not read version 1's.
"""

import json
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from gesso.export.agreement import Agreement, Written
from gesso.export.files.tensors import FolderError
from gesso.export.stacks.elmo_folder import words_of
from gesso.export.stacks.shared import (
    finish,
    fits,
    new_export,
    own_places,
    record_of,
    write_tokenizer,
)
from gesso.export.tables.expressible import Declared, EveryField
from gesso.export.tables.tables import Tree
from gesso.export.tokenizers.files import GivenTokenizer
from gesso.models import build
from gesso.models.config import ELMoConfig, ModelConfig
from gesso.models.trees import flat, nest

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

EXPRESSES = EveryField(format="orbax-params", why="config.json is our own config, whole")


def declaration(family: str) -> Declared | None:
    """What this format expresses of a family's config."""
    return EXPRESSES


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Tree,
    *,
    tokenizer: GivenTokenizer = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> Written:
    """Write params, config.json and the tokenizer's files into a new folder.

    The checkpoint is read back and compared bit for bit. Raises FolderError as
    export.write_folder does.
    """
    from orbax import checkpoint as ocp

    model = build(config)
    fits(own_places(model), params)
    kept = nest({path: _cast(path, x, DTYPES[dtype]) for path, x in flat(params).items()})
    with new_export(folder) as part:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((part / "params").absolute(), kept)
            checkpointer.wait_until_finished()
            again = flat(checkpointer.restore((part / "params").absolute()))
        if isinstance(config, ELMoConfig):  # its vocabulary may be larger than its softmax
            for name, content in words_of(tokenizer, config).items():
                (part / name).write_bytes(content)
        else:
            write_tokenizer(part, tokenizer, config, model_type=config.family)
        about = {"config": record_of(config), "dtype": dtype, "letters": flat(model.letters)}
        (part / "config.json").write_text(json.dumps(about, indent=1) + "\n")
        for path, x in flat(kept).items():
            if path not in again or np.asarray(again[path]).tobytes() != x.tobytes():
                raise FolderError(f"{path} is not what was written when it is read back")
        agreement = Agreement(apart=0.0, bound=0.0, outputs=("params",))
        kind = "orbax-params"
        return finish(part, folder, model_type=kind, dtype=dtype, agreement=agreement)


def _cast(path: str, x: Any, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.asarray(x).astype(dtype)
    if not np.isfinite(cast).all():
        raise FolderError(f"{path} holds NaN or infinite values in {dtype}")
    return cast
