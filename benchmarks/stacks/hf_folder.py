"""A folder of `--format hf` in transformers: its layers, its tokenizer, generate and a pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.stacks.checkpoints import TEXTS, Checkpoint
from benchmarks.stacks.figure import Differs, Figure
from benchmarks.stacks.processes import run_client
from benchmarks.stacks.venvs import python_of
from gesso.export import read_folder
from gesso.export.parity import parity
from gesso.models import build
from gesso.models.trees import flat

NEW = 8
# Of logits and hidden values in float32, as the reference packs; of probabilities.
BOUND, PROBABILITY_BOUND = 5e-5, 1e-5
# transformers' encoder-decoders have a pooler in their encoder that nothing reads; ours have none.
UNUSED = "encoder.pooler."


def transformers(client: str) -> Callable[[Checkpoint, Path], Figure]:
    """The measure of one version."""

    def measure(c: Checkpoint, folder: Path) -> Figure:
        again, given = flat(read_folder(folder).params), flat(c.params)
        if any(not np.array_equal(again[path], x) for path, x in given.items()):
            raise Differs("the folder has other weights than the checkpoint")
        found = parity(folder, python=python_of(client), texts=TEXTS)
        missing = [name for name in found.missing if not name.startswith(UNUSED)]
        if missing or found.unexpected:
            raise Differs(f"missing {missing}, unexpected {found.unexpected}")
        for number, text in enumerate(TEXTS):
            if found.made[f"ids/{number}"].tolist() != c.tokenizer.encode(text).tolist():
                raise Differs(f"its tokenizer gives other ids for {text!r}")
        worst = max(found.differences, key=lambda each: each.apart)
        if not worst.apart <= BOUND:
            raise Differs(f"{worst.output} is {worst.apart:.1e} apart, and {BOUND:.0e} is allowed")
        same = ["every layer", "token ids", *_used(c, folder, client)]
        return Figure(
            outcome="measured", apart=worst.apart, of=", ".join(same), versions=found.versions
        )

    return measure


def _used(c: Checkpoint, folder: Path, client: str) -> list[str]:
    """generate() and the pipeline of the model's task, held against ours; what was run."""
    writes = c.config.family != "bert"
    ids = np.random.default_rng(2).integers(5, 300, (1, 11), np.int32)
    asked = {
        "ids": ids,
        "new_tokens": np.array(NEW if writes else 0),
        "text": np.array(TEXTS[0][:44]),
    }
    made = run_client("hf.py", folder, asked, client=client)
    ran, text_ids, task = [], made["text_ids"][None], str(made["task"])
    end = _end(folder)
    if writes:
        if made["generated"][0].tolist() != continued(c, ids, end=end):
            raise Differs("generate() writes other tokens")
        ran.append("generate")
    if task in ("text-generation", "text2text-generation"):
        if made["written"].reshape(-1).tolist() != continued(c, text_ids, end=end):
            raise Differs(f"its pipeline {task} writes other tokens")
    elif task:
        ours, theirs = _piped(c, task, text_ids, made), made
        name = "features" if task == "feature-extraction" else "scores"
        bound = BOUND if name == "features" else PROBABILITY_BOUND
        if not (apart := float(np.abs(ours - theirs[name]).max())) <= bound:
            raise Differs(f"its pipeline {task} is {apart:.1e} apart, and {bound:.0e} is allowed")
    return [*ran, *([f"pipeline {task}"] if task else [])]


def _piped(c: Checkpoint, task: str, ids: np.ndarray, made: dict[str, np.ndarray]) -> np.ndarray:
    found = _apply(c)(c.params, {"tokens": ids.astype(np.int32)})
    if task == "fill-mask":
        (place,) = np.flatnonzero(ids[0] == c.tokenizer.special["mask"])
        scores = np.asarray(jax.nn.softmax(found["logits"][0, place]))
        if np.argsort(-scores)[: len(made["tokens"])].tolist() != made["tokens"].tolist():
            raise Differs("its pipeline fill-mask names other tokens")
        return scores[made["tokens"]]
    if task == "text-classification":
        return np.asarray(jax.nn.softmax(found["labels"][0]))
    return np.asarray(found["features"])


def continued(c: Checkpoint, ids: np.ndarray, *, end: int | None) -> list[int]:
    """The likeliest continuation of ids [1, L] by NEW tokens, from whole forwards: of a decoder
    after the ids, of an encoder-decoder after its start. end: an id that is not to be written."""
    two_sided = c.config.family != "gpt"
    begun = [c.config.start] if two_sided else ids[0].tolist()
    row = np.full((1, len(begun) + NEW), 5, np.int32)
    row[0, : len(begun)] = begun
    apply = _apply(c)
    for place in range(len(begun), row.shape[1]):
        # What comes later is there already, and causal attention does not see it.
        batch = {"tokens": row} | ({"source": ids.astype(np.int32)} if two_sided else {})
        logits = np.array(apply(c.params, batch)["logits"][0, place - 1])
        if end is not None:
            logits[end] = -np.inf
        row[0, place] = logits.argmax()
    return row[0].tolist()


def _apply(c: Checkpoint) -> Any:
    def apply(params: Any, batch: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return build(c.config).apply(params, batch)

    return jax.jit(apply)


def _end(folder: Path) -> int | None:
    record = json.loads((folder / "config.json").read_text())
    return record.get("eos_token_id", record.get("decoder", {}).get("eos_token_id"))
