"""StableHLO by jax.export: a program that runs the model wherever JAX runs, without our code.

    program.stablehlo   the serialized function (weights, batch) -> outputs, for rows and lengths of
                        any number, on cpu, cuda and tpu
    model.safetensors   the weights, by our names
    program.json        our config, what the program reads and gives, and its versions

The weights are arguments rather than constants: a constant would be in the file once for every
platform, could be neither sharded nor replaced, and a serialized program holds 2 GB at most.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from gesso.export.agreement import BOUNDS, Written, outputs, probe
from gesso.export.files.tensors import FolderError
from gesso.export.stacks.shared import (
    check_agreement,
    finish,
    new_export,
    record_of,
    write_own_weights,
    write_tokenizer,
)
from gesso.export.tables.expressible import Declared, EveryField, refuse
from gesso.export.tables.tables import Tree, slots
from gesso.export.tokenizers.files import GivenTokenizer
from gesso.models import build
from gesso.models.config import ELMoConfig, ModelConfig
from gesso.models.families import family
from gesso.models.model import Model
from gesso.models.trees import flat, nest

PLATFORMS = ("cpu", "cuda", "tpu")
Dtype = Literal["float32", "float16", "bfloat16"]


def _recurrent(config: ModelConfig) -> str:
    if not (isinstance(config, ELMoConfig) and config.recurrent):
        return ""
    return (
        f"{config.family} models read their rows in a loop whose length a StableHLO program"
        " would have to fix; --format elmo writes what its other readers take"
    )


EXPRESSES = EveryField(
    format="stablehlo", why="the program is our own, traced", rules={"family": _recurrent}
)


def declaration(family: str) -> Declared | None:
    """What this format expresses of a family's config."""
    return EXPRESSES


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Tree,
    *,
    tokenizer: GivenTokenizer = None,
    dtype: Dtype = "float32",
    platforms: tuple[str, ...] = PLATFORMS,
) -> Written:
    """Write the program, its weights and the tokenizer's files into a new folder.

    dtype: of the weights and so of the products. The program is read back and run on a probe.
    Raises FolderError as export.write_folder does, and for a model with a loop over the row's
    length, which cannot be left open.
    """
    refuse(EXPRESSES, config)
    if importlib.util.find_spec("flatbuffers") is None:
        raise FolderError("a StableHLO program needs flatbuffers: pip install 'gesso[export]'")
    model = build(portable(config))
    with new_export(folder) as part:
        write_own_weights(part, model, params, dtype=dtype)
        write_tokenizer(part, tokenizer, config, model_type=config.family)
        exported = jax_export.export(jax.jit(program(model, dtype=dtype)), platforms=platforms)(
            weights_of(model, dtype), batch_of(config)
        )
        (part / "program.stablehlo").write_bytes(exported.serialize())
        about = {
            "config": record_of(config),
            "dtype": dtype,
            "platforms": list(platforms),
            "jax": jax.__version__,
            "calling_convention": exported.calling_convention_version,
            "batch": {name: str(x) for name, x in batch_of(config).items()},
            "outputs": sorted(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
        }
        (part / "program.json").write_text(json.dumps(about, indent=1) + "\n")
        agreement = _check(part, config, params, dtype=dtype)
        return finish(part, folder, model_type="stablehlo", dtype=dtype, agreement=agreement)


def portable(config: Any) -> Any:
    """The config whose functions can be traced without knowing lengths: attention in one piece."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = portable(value)
        elif field.name == "attention":
            changes["attention"] = "dense"
    return dataclasses.replace(config, **changes)


def program(model: Model, *, dtype: str) -> Callable[..., dict[str, jax.Array]]:
    """The function ({our name: weight}, batch) -> outputs."""
    names = {path.replace("/", "."): path for path in flat(model.letters)}
    # Who asks for float32 weights gets float32 products; a TPU's default for them is bfloat16.
    precision = "highest" if dtype == "float32" else "default"

    def run(weights: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> Any:
        params = nest({names[name]: x for name, x in weights.items()})
        with jax.default_matmul_precision(precision):
            made = model.apply(params, batch)
        return {name: x.astype(jnp.float32) for name, x in made.items()}

    return run


def weights_of(model: Model, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtype of the weights."""
    return {
        path.replace("/", "."): jax.ShapeDtypeStruct(slot.shape, jnp.dtype(dtype))
        for path, slot in slots(model).items()
    }


def batch_of(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """What the model reads, its rows `b` and lengths `l` (of a source `s`) left open."""
    leaves, longest = family(config.family).network().inputs(config), config.longest
    letters = "bls" if "source" in leaves else "bl"
    limits = [f"{each} <= {longest}" for each in letters[1:]] if longest else []
    open_sizes = jax_export.symbolic_shape(", ".join(letters), constraints=limits)
    sizes = dict(zip(letters, open_sizes, strict=True))
    shapes = {}
    for name in leaves:
        shape = (sizes["b"], sizes["s" if name.startswith("source") else "l"])
        if name == "characters" and isinstance(config, ELMoConfig):
            shape = (*shape, config.characters)
        shapes[name] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return shapes


def whole_batch(config: ModelConfig, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch with every leaf the program reads; what `Model.apply` would take where absent."""
    made = dict(batch)
    for name in family(config.family).network().inputs(config):
        like = batch["source" if name.startswith("source") else "tokens"]
        if name.endswith("positions") and name not in made:
            made[name] = np.broadcast_to(np.arange(like.shape[1], dtype=np.int32), like.shape)
    return made


def _check(part: Path, config: ModelConfig, params: Tree, *, dtype: str) -> Any:
    from safetensors.numpy import load_file

    loaded = jax_export.deserialize(bytearray((part / "program.stablehlo").read_bytes()))
    batch = whole_batch(config, probe(config))
    theirs = loaded.call(load_file(part / "model.safetensors"), batch)
    ours = outputs(config, params, batch)
    mask = batch.get("segments", np.ones_like(batch["tokens"])) != 0
    apart = {}
    for name, y in ours.items():
        x = np.asarray(theirs[name])
        x = x[mask] if x.shape[:2] == mask.shape else x
        apart[name] = float(np.abs(x - y).max() / max(1e-30, np.abs(y).max()))
    return check_agreement(apart, bound=BOUNDS[dtype], where="the program read back")
