"""Our compiled step against a minimal hand-written one, and what the loop adds to it on the host.

    python -m benchmarks.step [--batch 8 --length 512 --steps 2] [--quick]

Prints one JSON document. ratio: seconds of our compiled step over those of
benchmarks/minimal_step.py (medians of steps taken in turn, float32, same shapes, one process).
host_overhead: share of the training loop's wall time outside the compiled step, with the real
store, loader, metrics and record on (checkpoints and evaluation off).
"""

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import jax

from benchmarks import minimal_step
from gesso.configs import experiment
from gesso.data.loader import Loader
from gesso.pretrain.experiment import Experiment
from gesso.pretrain.loop import Figures, Hooks, train
from gesso.pretrain.open import store_of
from gesso.pretrain.setup import Setup, compile_step_of, set_up
from gesso.pretrain.state import init_state

QUICK = {"model.layers": 2, "model.embed": 128, "model.heads": 4, "model.mlp": 512}


def settings(batch: int, length: int) -> dict[str, Any]:
    return {
        "data.store": "embedded:bytes",
        "batch": batch,
        "microbatches": 1,
        "length": length,
        "precision.compute": "float32",
        "model.remat": "none",
        "objective.chunk_tokens": 0,
        "data.packing": "concat",  # one document a row, as the peer has it
        "mesh.data": 1,
        "mesh.fsdp": 1,
    }


def compare(s: Setup, step: Any, *, steps: int) -> dict[str, Any]:
    """Medians of both steps, taken in turn on the same batch."""
    e = s.experiment
    take_over, plain = minimal_step.make(e.model, learning_rate=e.optimizer.learning_rate)
    peer_step = jax.jit(plain)
    state = fresh(s)
    peer = jax.jit(take_over)(state["params"])
    with loader_of(s) as loader:
        batch = next(loader).arrays
    tokens, targets = batch["tokens"], batch["targets"]
    seconds: dict[str, list[float]] = {"ours": [], "minimal": []}
    first: dict[str, float] = {}
    for turn in range(-2, steps):  # two turns warm up and are not counted
        start = time.perf_counter()
        state, metrics = step(state, batch)
        ours = float(metrics["loss"])
        middle = time.perf_counter()
        peer, loss = peer_step(peer, tokens, targets)
        theirs = float(loss)
        end = time.perf_counter()
        first = first or {"ours": ours, "minimal": theirs}
        if turn >= 0:
            seconds["ours"].append(middle - start)
            seconds["minimal"].append(end - middle)
    if abs(first["ours"] - first["minimal"]) > 1e-4:
        raise SystemExit(f"not the same model: first losses {first}")
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "ratio": round(medians["ours"] / medians["minimal"], 3),
        "seconds": {name: [round(x, 4) for x in each] for name, each in seconds.items()},
        "first_losses": first,
    }


def host_overhead(s: Setup, step: Any, *, steps: int) -> dict[str, Any]:
    """The loop's wall time that is not spent in the compiled step."""
    inside: list[float] = []

    def timed(state: Any, batch: Any) -> Any:
        start = time.perf_counter()
        made = jax.block_until_ready(step(state, batch))
        inside.append(time.perf_counter() - start)
        return made

    def no(*_: Any) -> bool:
        return False

    records: list[dict[str, Any]] = []
    hooks = Hooks(
        record=records.append,
        save=no,
        save_due=no,
        evaluate=no,
        evaluate_due=no,
        poll=no,
        preempted=no,
        progress=no,
    )
    figures = Figures(
        terms=tuple(s.objective.terms),
        counts=(),
        components=s.order.components,
        utilization=lambda rate: None,
        log_every=1,
        max_skipped=1,
        total=steps,
    )
    state = fresh(s)
    with loader_of(s) as loader:
        first = next(loader)  # the store is opened and the shuffles are made before the clock runs
        feed = itertools.chain([first], loader)
        start = time.perf_counter()
        train(state, feed, timed, start=0, steps=steps, next_row=0, hooks=hooks, figures=figures)
        whole = time.perf_counter() - start
    return {
        "host_overhead": round(1 - sum(inside) / whole, 5),
        "loop_seconds": round(whole, 3),
    }


def fresh(s: Setup) -> Any:
    return init_state(s.model, s.optimizer, seed=0, mesh=s.mesh, layout=s.layout)


def loader_of(s: Setup) -> Loader:
    letters, rows = s.objective.letters, s.experiment.batch
    return Loader(
        s.order, s.objective.host_batch, mesh=s.mesh, batch=rows, letters=letters, prefetch=2
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 narrow layers, 2 x 128")
    asked = parser.parse_args()
    batch, length = (2, 128) if asked.quick else (asked.batch, asked.length)
    chosen = settings(batch, length) | (QUICK if asked.quick else {})
    e: Experiment = experiment("gpt-neo-125m", chosen)
    s = set_up(e, store=store_of(e))
    step = compile_step_of(s)
    found = compare(s, step, steps=asked.steps) | host_overhead(s, step, steps=asked.steps)
    print(json.dumps(found | {"batch": batch, "length": length}, indent=1))


if __name__ == "__main__":
    main()
