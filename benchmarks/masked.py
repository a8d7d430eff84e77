"""Masked-token prediction: masking on the host, our BERT step beside a minimal one, and the memory
of a head that sees only the predicted places.

    python -m benchmarks.masked [--batch 4 --length 128 --steps 3] [--quick]

Prints one JSON document. million_tokens_per_cpu_second: of objectives/masked.py's host_batch, on
rows of 512 places of the embedded corpus, by unit and pairs; the rows are made before. ratio:
seconds of our compiled step over those of benchmarks/minimal_bert.py (medians of steps taken in
turn, float32, same batch, one process); cpu_ratio: the same of CPU-seconds, which a machine that is
busy with other things disturbs less. memory: megabytes of temporaries by XLA's account, of our
step and of the minimal one with its head on the predicted places and on all of them, compiled for
rows of 512 tokens.
"""

import argparse
import json
import statistics
import time
from typing import Any

import jax

from benchmarks import minimal_bert
from benchmarks.step import fresh, loader_of
from gesso.configs import experiment
from gesso.data.config import OrderConfig
from gesso.data.order.order import Order
from gesso.objectives.config import MaskedLMConfig
from gesso.objectives.masked import MaskedLM
from gesso.pretrain.batch import abstract_batch
from gesso.pretrain.experiment import Experiment
from gesso.pretrain.open import store_of
from gesso.pretrain.setup import Setup, compile_step_of, set_up

STORE = "embedded:wordpiece"
SETTINGS = {
    "data.store": STORE,
    "phases": (),
    "objective": MaskedLMConfig(),
    "model.outputs": ("mlm",),
    "model.embedding_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.residual_dropout": 0.0,
    "optimizer.name": "adamw",
    "precision.compute": "float32",
    "mesh.data": 1,
    "mesh.fsdp": 1,
}
QUICK = {"model.layers": 2, "model.embed": 128, "model.heads": 4, "model.mlp": 512}
MEMORY_BATCH = 8  # rows of 512


def masking(store: Any, *, rows: int, turns: int) -> dict[str, float]:
    """Millions of tokens per CPU-second, the best of `turns`."""
    tokenizer, found = store.tokenizer(), {}
    for unit in ("token", "word", "span"):
        for pairs in ("none", "nsp", "sop"):
            objective = MaskedLM(MaskedLMConfig(unit=unit, pairs=pairs), tokenizer=tokenizer)
            order = OrderConfig(
                length=512,
                overlap=0,
                overhead=objective.overhead,
                companions=objective.companions,
            )
            made = Order(store, order).rows(0, rows)
            seconds = []
            for _ in range(turns):
                start = time.process_time()
                objective.host_batch(made)
                seconds.append(time.process_time() - start)
            found[f"{unit} {pairs}"] = round(rows * 512 / min(seconds) / 1e6, 1)
    return found | {"slowest": min(found.values())}


def compare(s: Setup, *, steps: int) -> dict[str, Any]:
    """Medians of both steps, taken in turn on the same batch."""
    e = s.experiment
    step = compile_step_of(s)
    take_over, plain = minimal_bert.make(
        e.model, learning_rate=e.optimizer.learning_rate, head="gathered"
    )
    peer_step = jax.jit(plain)
    state = fresh(s)
    peer = jax.jit(take_over)(state["params"])
    with loader_of(s) as loader:
        batch = next(loader).arrays
    seconds: dict[str, list[float]] = {"ours": [], "minimal": []}
    cpu: dict[str, list[float]] = {"ours": [], "minimal": []}
    first: dict[str, float] = {}
    for turn in range(-2, steps):  # two turns warm up and are not counted
        clocks = [(time.perf_counter(), time.process_time())]
        state, metrics = step(state, batch)
        ours = float(jax.block_until_ready((state, metrics))[1]["loss"])
        clocks.append((time.perf_counter(), time.process_time()))
        peer, loss = peer_step(peer, batch)
        theirs = float(jax.block_until_ready((peer, loss))[1])
        clocks.append((time.perf_counter(), time.process_time()))
        first = first or {"ours": ours, "minimal": theirs}
        if turn >= 0:
            for name, before, after in zip(seconds, clocks[:-1], clocks[1:], strict=True):
                seconds[name].append(after[0] - before[0])
                cpu[name].append(after[1] - before[1])
    if abs(first["ours"] - first["minimal"]) > 1e-4:
        raise SystemExit(f"not the same model: first losses {first}")

    def ratio(of: dict[str, list[float]]) -> float:
        return round(statistics.median(of["ours"]) / statistics.median(of["minimal"]), 3)

    return {
        "ratio": ratio(seconds),
        "cpu_ratio": ratio(cpu),
        "seconds": {name: [round(x, 4) for x in each] for name, each in seconds.items()},
        "first_losses": first,
    }


def memory(e: Experiment, store: Any) -> dict[str, float]:
    """Megabytes of temporaries of three compiled steps; nothing is run."""
    s = set_up(e, store=store)
    batch = abstract_batch(s.objective, rows=e.batch, length=e.length, mesh=s.mesh)
    found = {"ours": _megabytes(compile_step_of(s))}
    for head in ("gathered", "all"):
        take_over, plain = minimal_bert.make(e.model, learning_rate=1e-4, head=head)
        state = jax.eval_shape(take_over, s.abstract["params"])
        found[f"minimal, head {head}"] = _megabytes(jax.jit(plain).lower(state, batch).compile())
    return found | {"ours / head all": round(found["ours"] / found["minimal, head all"], 3)}


def _megabytes(compiled: jax.stages.Compiled) -> float:
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise SystemExit("this backend gives no account of memory")
    return round(analysis.temp_size_in_bytes / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 narrow layers, 2 x 128")
    asked = parser.parse_args()
    chosen = SETTINGS | (QUICK if asked.quick else {})
    batch, length = (2, 128) if asked.quick else (asked.batch, asked.length)
    e = experiment("bert-base", chosen | {"batch": batch, "length": length})
    store = store_of(e)
    large = experiment("bert-base", chosen | {"batch": MEMORY_BATCH, "model.layers": 2})
    found = {
        "million_tokens_per_cpu_second": masking(store, rows=32 if asked.quick else 256, turns=5),
        "memory": memory(large, store),
    }
    found |= compare(set_up(e, store=store), steps=asked.steps)
    print(json.dumps(found | {"batch": batch, "length": length}, indent=1))


if __name__ == "__main__":
    main()
