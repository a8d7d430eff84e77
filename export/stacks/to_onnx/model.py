"""ONNX: the model's own program as a graph, its weights beside it, rows and lengths open.

    model.onnx        the graph, with the names of inputs and outputs that transformers has
    model.onnx.data   the weights, each once
    config.json, tokenizer.json and their kin, as transformers reads them, where there are such

The graph is made of what JAX would run (export.stacks.to_onnx.program), so every family has it and
no second set of equations exists. The alternatives were tried: jax2onnx 0.17 asks for an older
orbax-checkpoint than our checkpoints need and fails on rows of open length; optimum takes an
exported folder (--format hf) through torch, and is the way to a graph with a cache of keys.
"""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gesso.export.agreement import Written, outputs, probe
from gesso.export.files.tensors import FolderError
from gesso.export.formats import format_for
from gesso.export.stacks.shared import (
    check_agreement,
    finish,
    fits,
    new_export,
    own_places,
    write_tokenizer,
)
from gesso.export.stacks.stablehlo import batch_of, portable, program, weights_of
from gesso.export.stacks.to_onnx.graph import Graph
from gesso.export.stacks.to_onnx.program import add_program
from gesso.export.stacks.to_onnx.shapes import dims_of
from gesso.export.tables.expressible import Declared, EveryField, refuse
from gesso.export.tables.tables import Tree
from gesso.export.tokenizers.files import GivenTokenizer
from gesso.models import build
from gesso.models.config import ELMoConfig, ModelConfig
from gesso.models.trees import flat

# onnxruntime's kernels sum in another order than XLA's.
BOUND = 1e-4
INPUTS = {
    "tokens": "input_ids",
    "segments": "attention_mask",
    "token_types": "token_type_ids",
}
# Of an encoder-decoder the first is the source.
TWO_SIDED = {
    "source": "input_ids",
    "source_segments": "attention_mask",
    "tokens": "decoder_input_ids",
    "segments": "decoder_attention_mask",
}
OUTPUTS = {
    "features": "last_hidden_state",
    "pooled": "pooler_output",
    "next_sentence": "seq_relationship_logits",
    "labels": "logits",
    "tags": "logits",
    "start": "start_logits",
    "end": "end_logits",
}


def _recurrent(config: ModelConfig) -> str:
    if not (isinstance(config, ELMoConfig) and config.recurrent):
        return ""
    return f"{config.family} models read their rows in a loop, which is not written as ONNX"


EXPRESSES = EveryField(
    format="onnx", why="the graph is our own program, traced", rules={"family": _recurrent}
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
) -> Written:
    """Write the graph and its weights, in float32, and the tokenizer's files into a new folder.

    Inputs are int64 [rows, length], masks among them: 0 for padding, and documents may be numbered
    as in our segments. Positions are counted from 0. Where onnxruntime is installed what was
    written is run on a probe; otherwise only the graph is checked.

    Raises FolderError as export.write_folder does, and naming what has no rule.
    """
    if importlib.util.find_spec("onnx") is None:
        raise FolderError("an ONNX graph needs the onnx package: pip install 'gesso[export]'")
    refuse(EXPRESSES, config)
    model = build(portable(config))
    fits(own_places(model), params)
    with new_export(folder) as part:
        with (part / "model.onnx.data").open("wb") as weights:
            graph = Graph(weights, location="model.onnx.data")
            _trace(graph, model, flat(params))
            graph.save(part / "model.onnx", producer="gesso")
        model_type = _write_published(part, config)
        write_tokenizer(part, tokenizer, config, model_type=model_type)
        agreement = check_agreement(_apart(part, config, params), bound=BOUND, where="onnxruntime")
        return finish(part, folder, model_type="onnx", dtype="float32", agreement=agreement)


def names_of(config: ModelConfig) -> dict[str, str]:
    """{our leaf: the input that carries it}. Positions have none: they are counted."""
    leaves = batch_of(config)
    named = TWO_SIDED if "source" in leaves else INPUTS
    return {leaf: named[leaf] for leaf in leaves if leaf in named}


def their_name(output: str, among: Mapping[str, Any]) -> str:
    """An output's name in transformers; its own where that belongs to another output here."""
    theirs = OUTPUTS.get(output, output)
    return output if theirs != output and theirs in among else theirs


def _trace(graph: Graph, model: Any, params: Tree) -> None:
    names = names_of(model.config)
    leaves = {leaf: each for leaf, each in batch_of(model.config).items() if leaf in names}
    traced = jax.jit(program(model, dtype="float32")).trace(weights_of(model, "float32"), leaves)
    inputs = {leaf: graph.input(names[leaf], dims_of(x.shape)) for leaf, x in leaves.items()}
    weights = {
        path.replace("/", "."): graph.weight(path.replace("/", "."), _finite(path, x))
        for path, x in params.items()
    }
    made = add_program(graph, traced.jaxpr, jax.tree.leaves((weights, inputs)))
    infos: Any = traced.out_info
    for (name, info), value in zip(sorted(infos.items()), made, strict=True):
        graph.output(their_name(name, infos), graph.whole(value, dims_of(info.shape)))


def _write_published(part: Path, config: ModelConfig) -> str:
    """Write config.json where a published format says the model; its model type or our family."""
    try:
        form = format_for(config)
    except FolderError:
        return config.family
    (part / "config.json").write_text(json.dumps(form.write(config), indent=1) + "\n")
    return form.model_type


def _finite(path: str, x: Any) -> np.ndarray:
    array = np.asarray(x, np.float32)
    if not np.isfinite(array).all():
        raise FolderError(f"{path} holds NaN or infinite values")
    return array


def _apart(part: Path, config: ModelConfig, params: Tree) -> dict[str, float]:
    if importlib.util.find_spec("onnxruntime") is None:
        return {"graph": 0.0}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(part / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    batch = probe(config)
    asked = {name: batch[leaf].astype(np.int64) for leaf, name in names_of(config).items()}
    results = session.run(None, asked)
    theirs = {each.name: x for each, x in zip(session.get_outputs(), results, strict=True)}
    mask = batch.get("segments", np.ones_like(batch["tokens"])) != 0
    apart = {}
    ours = outputs(config, params, batch)
    for name, y in ours.items():
        x: Any = theirs[their_name(name, ours)]
        x = x[mask] if x.shape[:2] == mask.shape else x
        apart[name] = float(np.abs(x - y).max() / max(1e-30, np.abs(y).max()))
    return apart
