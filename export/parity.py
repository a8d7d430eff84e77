"""Ours beside transformers on one folder: the same batch through both, compared layer by layer."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gesso.export.agreement import probe
from gesso.export.files.tensors import FolderError
from gesso.export.reading import read_folder
from gesso.models import build
from gesso.models.config import ModelConfig

# What transformers calls the outputs of our encoders.
_NAMES = {
    "decoder_hidden": "hidden",
    "last_hidden_state": "features",
    "pooler_output": "pooled",
    "prediction_logits": "logits",
    "seq_relationship_logits": "next_sentence",
    "start_logits": "start",
    "end_logits": "end",
}
SCRIPT = Path(__file__).with_name("theirs.py")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What one output of theirs is apart from ours. apart, largest: absolute values, over places
    that are not padding."""

    output: str
    apart: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """versions: of their stack. missing, unexpected: names their loader complained of. texts: for
    each text, whether their tokenizer gave the ids in `ids`."""

    versions: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    differences: tuple[Difference, ...]
    tokenizer: str
    made: Mapping[str, np.ndarray]


def parity(
    folder: str | os.PathLike[str],
    *,
    python: str,
    environment: Mapping[str, str] | None = None,
    texts: Sequence[str] = (),
    timeout_seconds: int = 600,
) -> Parity:
    """Run the folder here and in `python`, one that has torch and transformers.

    Raises FolderError for a folder we cannot read, or that Python's complaint where it fails.
    """
    imported = read_folder(folder)
    batch = probe(imported.config)
    theirs = run_theirs(
        folder,
        their_batch(imported.config, batch) | ({"texts": np.array(list(texts))} if texts else {}),
        python=python,
        environment=environment,
        timeout_seconds=timeout_seconds,
    )
    return Parity(
        versions=str(theirs["versions"][0]),
        missing=tuple(map(str, theirs["missing"])),
        unexpected=tuple(map(str, theirs["unexpected"])),
        differences=tuple(_differences(imported, batch, theirs)),
        tokenizer=str(theirs["tokenizer"][0]) if "tokenizer" in theirs else "",
        made=theirs,
    )


def their_batch(config: ModelConfig, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch of ours under the names of transformers."""
    names = {"tokens": "input_ids", "segments": "attention_mask", "token_types": "token_type_ids"}
    if "source" in batch:
        names = {
            "source": "input_ids",
            "source_segments": "attention_mask",
            "tokens": "decoder_input_ids",
        }
    return {theirs: batch[ours] for ours, theirs in names.items() if ours in batch}


def run_theirs(
    folder: str | os.PathLike[str],
    batch: Mapping[str, np.ndarray],
    *,
    python: str,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int = 600,
) -> dict[str, np.ndarray]:
    """What export/theirs.py makes of a folder in another Python, without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    # Ours would otherwise be on their path.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "asked.npz", Path(place) / "made.npz"
        arrays: dict[str, Any] = dict(batch)
        np.savez(given, **arrays)
        command = [python, "-W", "ignore", str(SCRIPT), str(folder), str(given), str(made)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                env=kept | offline | dict(environment or {}),
            )
        except FileNotFoundError:
            raise FolderError(f"there is no Python at {python}") from None
        except subprocess.TimeoutExpired:
            raise FolderError(f"transformers took over {timeout_seconds} s on {folder}") from None
        if done.returncode:
            told = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise FolderError(f"transformers in {python} failed on {folder}: {told[0][:600]}")
        with np.load(made) as found:
            return dict(found)


def _differences(
    imported: Any, batch: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> list[Difference]:
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(
            lambda params, batch: build(imported.config).apply(params, batch, hidden=True)
        )
        made = {name: np.asarray(x) for name, x in apply(imported.params, batch).items()}
    masks = {
        "encoder_hidden": batch.get("source_segments"),
        "": batch.get("segments"),
    }
    found = []
    for name, x in theirs.items():
        stem, _, number = name.partition("/")
        ours = made.get(_NAMES.get(stem, stem))
        if stem == "logits" and ours is None:
            ours = made.get("labels", made.get("tags"))
        if ours is None or stem in ("ids", "generated"):
            continue
        y = ours[int(number)] if number else ours
        if y.shape != x.shape and stem == "hidden":
            y = made.get("features", y)  # OPT 350M's last one is in the width of its table
        if y.shape != x.shape:
            raise FolderError(f"{name} has shape {list(x.shape)} there and {list(y.shape)} here")
        mask = masks.get(stem, masks[""])
        if mask is not None and mask.shape == x.shape[:2]:
            x, y = x[mask != 0], y[mask != 0]
        found.append(
            Difference(
                output=name,
                apart=float(np.abs(x - y).max()),
                largest=float(np.abs(x).max()),
            )
        )
    return found
