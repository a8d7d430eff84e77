"""One export through one client: how far its outputs are from the checkpoint's."""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.stacks import adapters, lm_evaluation
from benchmarks.stacks.batches import batch_for, outputs_of
from benchmarks.stacks.case import Case, Refusal
from benchmarks.stacks.checkpoints import TEXTS, Checkpoint
from benchmarks.stacks.figure import Differs, Figure, figure
from benchmarks.stacks.hf_folder import transformers
from benchmarks.stacks.processes import run_client
from benchmarks.stacks.venvs import NoClient
from gesso.export import FolderError
from gesso.export.stacks.stablehlo import whole_batch
from gesso.export.stacks.to_onnx.model import names_of, their_name
from gesso.models.trees import flat

# float32 sums in another order: what the reference packs allow logits and hidden values.
BOUND = 5e-5
# llama.cpp has gelu from a table of float16; fieldnotes of its own converter's files: 1e-3 to 4e-3.
LLAMA_BOUND = 5e-3


@dataclass(frozen=True)
class Client:
    """format: what it reads. measure: raises Refusal, NoClient, Differs or what a process ends
    with where there is no figure."""

    format: str
    measure: Callable[[Checkpoint, Path], Figure]


def measured(client: str, case: Case) -> Figure:
    """A figure, or why there is none: what the command or the client said."""
    asked = CLIENTS[client]
    try:
        return asked.measure(case.checkpoint, case.folder(asked.format))
    except NoClient as error:
        return Figure(outcome="not run", why=str(error))
    except Refusal as error:
        return Figure(outcome="refused", why=str(error))
    except (RuntimeError, FolderError, subprocess.SubprocessError) as error:
        return Figure(outcome="failed", why=" ".join(str(error).split())[-400:])


def onnx(c: Checkpoint, folder: Path) -> Figure:
    """The graph in onnxruntime."""
    batch, names = batch_for(c.config), names_of(c.config)
    asked = {theirs: batch[leaf].astype(np.int64) for leaf, theirs in names.items()}
    made = run_client("ort.py", folder, asked, client="onnxruntime")
    ours = outputs_of(c.config, c.params, {leaf: batch[leaf] for leaf in names})
    theirs = {name: made[their_name(name, ours)] for name in ours}
    return figure(ours, theirs, bound=BOUND, versions=str(made["versions"][0]))


def stablehlo(c: Checkpoint, folder: Path) -> Figure:
    """The program, in a process without our code."""
    batch = whole_batch(c.config, batch_for(c.config))
    made = run_client("hlo.py", folder, batch, client="jax")
    return figure(
        outputs_of(c.config, c.params, batch), made, bound=BOUND, versions=str(made["versions"][0])
    )


def orbax(c: Checkpoint, folder: Path) -> Figure:
    """The arrays, in a process without our code: the very same."""
    made = run_client("weights.py", folder, {}, client="jax")
    ours = {path.replace("/", "."): np.asarray(x) for path, x in flat(c.params).items()}
    if ours.keys() != made.keys() - {"versions"}:
        raise Differs(f"other arrays: {', '.join(sorted(ours.keys() ^ made.keys())[:5])}")
    found = figure(ours, made, bound=0.0, versions=str(made["versions"][0]))
    return Figure(outcome="measured", of="every array", apart=0.0, versions=found.versions)


def ctranslate2(c: Checkpoint, folder: Path) -> Figure:
    """Logits of decoders, features of encoders, T5's log-probabilities of given targets."""
    batch = batch_for(c.config)
    kind = {"gpt": "decoder", "bert": "encoder"}.get(c.config.family, "encoder-decoder")
    leaves = ("source", "tokens", "token_types")
    asked = {leaf: batch[leaf] for leaf in leaves if leaf in batch}
    if kind != "encoder-decoder":
        made = run_client("ct2.py", folder, asked | {"kind": np.array(kind)}, client="ctranslate2")
        return figure(
            outputs_of(c.config, c.params, asked),
            made,
            bound=BOUND,
            versions=str(made["versions"][0]),
        )
    # Ids that the tokenizer spells, so that they can be asked for by name.
    asked = {leaf: 5 + x % 300 for leaf, x in asked.items()}
    made = run_client("ct2.py", folder, asked | {"kind": np.array(kind)}, client="ctranslate2")
    target = asked["tokens"]
    start = np.full((len(target), 1), c.config.start, np.int32)
    shifted = asked | {"tokens": np.concatenate([start, target[:, :-1]], axis=1)}
    said = np.asarray(jax.nn.log_softmax(outputs_of(c.config, c.params, shifted)["logits"]))
    ours = np.take_along_axis(said, target[..., None], -1)[..., 0]
    theirs = made["token_log_probabilities"][:, : target.shape[1]]
    return figure(
        {"log-probabilities": ours},
        {"log-probabilities": theirs},
        bound=BOUND,
        versions=str(made["versions"][0]),
    )


def llama_cpp(c: Checkpoint, folder: Path) -> Figure:
    """Log-probabilities of decoders, features of encoders; the tokenizer in the file."""
    encoder = c.config.family == "bert"
    tokens = batch_for(c.config)["tokens"]
    asked = {
        "tokens": tokens,
        "lengths": np.zeros(len(tokens), np.int32),
        "kind": np.array("encoder" if encoder else "decoder"),
        "texts": np.array(TEXTS),
    }
    made = run_client("llama_cpp.py", folder / "model.gguf", asked, client="llama-cpp")
    for number, text in enumerate(TEXTS):
        if made[f"ids/{number}"].tolist() != c.tokenizer.encode(text).tolist():
            raise Differs(f"its tokenizer gives other ids for {text!r}")
    told: dict[str, Any] = {"bound": LLAMA_BOUND, "versions": str(made["versions"][0])}
    found = outputs_of(c.config, c.params, {"tokens": tokens})
    if encoder:
        return figure({"features": found["features"]}, made, same=("token ids",), **told)
    name = "log_probabilities"
    ours = np.asarray(jax.nn.log_softmax(found["logits"]))
    if (ours.argmax(-1) != made[name].argmax(-1)).any():
        raise Differs("another token is the likeliest")
    same = ("likeliest tokens", "token ids")
    return figure({"log-probabilities": ours}, {"log-probabilities": made[name]}, same=same, **told)


CLIENTS: Mapping[str, Client] = {
    "transformers 5": Client("hf", transformers("transformers-5")),
    "transformers 4": Client("hf", transformers("transformers-4")),
    "lm-eval": Client("hf", lm_evaluation.measure),
    "PEFT": Client("peft", adapters.measure),
    "onnxruntime": Client("onnx", onnx),
    "CTranslate2": Client("ctranslate2", ctranslate2),
    "llama.cpp": Client("gguf", llama_cpp),
    "JAX alone": Client("stablehlo", stablehlo),
    "Orbax alone": Client("orbax-params", orbax),
}
