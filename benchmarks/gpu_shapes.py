"""From a job's specification to an experiment and a batch of synthetic rows. Imports no JAX, so
that torch's processes can read the same shapes."""

from typing import Any

import numpy as np

from gesso.configs.registry import experiment
from gesso.pretrain.experiment import Experiment

# What every model shrinks to with --tiny: seconds on a CPU, all branches of the code.
TINY = {
    "model.vocab": 512,
    "model.positions": 128,
    "model.layers": 2,
    "model.embed": 64,
    "model.heads": 4,
    "model.mlp": 128,
    "batch": 2,
    "length": 64,
}


def experiment_of(spec: dict[str, Any]) -> Experiment:
    """The published experiment at the specification's batch and length, without dropout, which
    none of the peers has either."""
    base = experiment(spec["experiment"])
    settings: dict[str, Any] = {
        "batch": spec["batch"],
        "length": spec["length"],
        "microbatches": 1,
        "model.embedding_dropout": 0.0,
        "model.attention_dropout": 0.0,
        "model.residual_dropout": 0.0,
        "model.remat": spec["remat"],
        "model.attention": "blocks" if spec["attention"] == "flash" else spec["attention"],
        "model.unroll": spec.get("unroll", 1),
        "objective.chunk_tokens": spec.get("chunk_tokens", 0),
    }
    if spec["layers"]:
        settings["model.layers"] = spec["layers"]
    if spec["tiny"]:
        settings |= TINY
        settings["objective.chunk_tokens"] = min(settings["objective.chunk_tokens"], 64)
        if base.model.window:
            settings["model.window"] = 16
        if base.model.rotary_dims:
            settings["model.rotary_dims"] = 8
    return experiment(spec["experiment"], settings)


def rows(e: Experiment, kind: str, *, overlap: int) -> dict[str, np.ndarray]:
    """Rows of random tokens as the data's order makes them. "packed": documents of log-normal
    lengths end to end, cut where the row ends; "single": one document per row."""
    rng = np.random.default_rng(0)
    n, length = e.batch, e.length + overlap
    segments = np.ones((n, length), np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (n, 1))
    if kind == "packed":
        for row in range(n):
            start, segment = 0, 1
            while start < length:
                size = int(np.clip(rng.lognormal(np.log(length / 4), 1.0), 8, length))
                stop = min(start + size, length)
                segments[row, start:stop] = segment
                positions[row, start:stop] = np.arange(stop - start)
                start, segment = stop, segment + 1
    return {
        "tokens": rng.integers(0, e.model.vocab, (n, length)).astype(np.int32),
        "segments": segments,
        "positions": positions,
        "component": np.zeros(n, np.int32),
    }


def attention_sizes(spec: dict[str, Any]) -> tuple[int, int, int, int]:
    """Batch, length, heads, head dim; the embedding is split into heads."""
    if spec["tiny"]:
        return 1, 256, 2, spec["head_dim"]
    return spec["batch"], spec["length"], spec["embed"] // spec["head_dim"], spec["head_dim"]


def attention_flops(spec: dict[str, Any]) -> float:
    """Of one causal forward pass: two products over half of the length squared."""
    batch, length, heads, head_dim = attention_sizes(spec)
    return 2 * 2 * batch * heads * length * length * head_dim / 2
