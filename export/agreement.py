"""Whether an exported folder is the model it was made of: read back, and run beside it."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.reading import open_folder, parameters_of
from gesso.export.tables.tables import Tree, by_path
from gesso.models import build
from gesso.models.config import BERTConfig, ELMoConfig, EncoderDecoderConfig, GPTConfig, ModelConfig
from gesso.models.families import family
from gesso.models.trees import nest

# How far outputs may be apart, as a share of the largest: rounding of the weights to the files'
# dtype (2^-11 and 2^-8 each), grown by a stack of layers; in float32 only the shape of a cropped
# head may change a sum's order.
BOUNDS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
_OFFSET = (BERTConfig, GPTConfig)  # these may count positions from another row than the first


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """apart: the largest difference of an output, as a share of that output's largest value; in the
    worst of `outputs`. bound: what was allowed."""

    apart: float
    bound: float
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a writer wrote. files: {name: bytes}. agreement: how far the outputs of what was
    read back are from those of the parameters given."""

    folder: Path
    model_type: str
    dtype: str
    files: dict[str, int]
    agreement: Agreement


def compare(folder: Path, config: ModelConfig, params: Tree, *, dtype: str) -> Agreement:
    """Read `folder` again and compare its outputs on a probe with those of `params`, nested or
    Paths. One model's parameters are on the device at a time.

    Raises FolderError where they are further apart than BOUNDS[dtype] allows.
    """
    again = open_folder(folder)
    batch = probe(again.config)
    ours = outputs(config, _place(by_path(params).items()), batch)
    theirs = outputs(again.config, _place(parameters_of(again)), batch)
    apart = {}
    for name, x in theirs.items():
        y = ours[name][..., : x.shape[-1]] if ours[name].shape != x.shape else ours[name]
        apart[name] = float(np.abs(x - y).max() / max(1e-30, np.abs(y).max()))
    worst = max(apart, key=lambda name: np.nan_to_num(apart[name], nan=np.inf))
    bound = BOUNDS[dtype]
    if not apart[worst] <= bound:
        raise FolderError(
            f"what was written to {folder.name} does not give the model's outputs: {worst} differ"
            f" by {apart[worst]:.1e} of their largest value, and {dtype} may cost {bound:.0e};"
            " nothing was kept" + ("" if dtype == "float32" else "; export as float32")
        )
    return Agreement(apart=apart[worst], bound=bound, outputs=tuple(sorted(apart)))


def on_device(x: Any) -> jax.Array:
    """A parameter where the model runs. It waits, since a copy under way keeps what it copies; and
    is not asarray, which makes one more."""
    return jax.block_until_ready(jax.device_put(x))


def _place(params: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return nest({path: on_device(x) for path, x in params})


def probe(
    config: ModelConfig, *, rows: int = 2, length: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch of random tokens for a model of any family; the second row ends in padding."""
    random = np.random.default_rng(seed)
    length = min(length, config.longest or length)
    # transformers counts RoBERTa's positions over tokens that are not its padding id.
    both = isinstance(config, EncoderDecoderConfig)
    sides = (config.encoder, config.decoder) if both else (config,)
    lowest = max(each.first_position if isinstance(each, _OFFSET) else 0 for each in sides)
    batch: dict[str, np.ndarray] = {}
    for name, size in family(config.family).network().inputs(config).items():
        if name in ("tokens", "source"):
            batch[name] = random.integers(lowest, size, (rows, length), np.int32)
        elif name == "token_types":
            batch[name] = random.integers(0, size, (rows, length), np.int32)
        elif name == "characters" and isinstance(config, ELMoConfig):
            shape = (rows, length, config.characters)
            batch[name] = random.integers(0, size, shape, np.int32)
        elif name in ("segments", "source_segments"):
            batch[name] = np.ones((rows, length), np.int32)
            batch[name][-1, -max(1, length // 4) :] = 0
    return batch


def outputs(
    config: ModelConfig, params: Tree, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's outputs in float32, at places that are not padding."""
    with jax.default_matmul_precision("highest"):
        made = _compile(config)(dict(params), batch)
    mask = batch.get("segments", np.ones_like(next(iter(batch.values())))) != 0
    return {
        name: np.asarray(x, np.float32)[mask]
        if x.shape[:2] == mask.shape
        else np.asarray(x, np.float32)
        for name, x in made.items()
        if jnp.issubdtype(x.dtype, jnp.floating)
    }


@functools.lru_cache(2)
def _compile(config: ModelConfig) -> Any:
    """Compiled once for what is compared; what ELMo is read for are its layers, and a softmax it
    may not have."""
    return jax.jit(functools.partial(build(config).apply, hidden=config.family == "elmo"))
