"""What dropout costs a training step: ours beside jax.random.bernoulli's and none.

    python -m benchmarks.dropout [--batch 4 --length 512 --steps 3] [--quick]

Prints one JSON document. Three compiled steps of bert-base on the same batch, taken in turn in one
process (float32): with its published dropout, with the same from jax.random.bernoulli, which is
what flax.nnx.Dropout draws from, and without. ratio: of medians, ours over bernoulli's. cost: of
CPU-seconds, what dropout adds to a step without any.
"""

import argparse
import json
import statistics
import time
from typing import Any
from unittest import mock

import jax

from benchmarks.masked import QUICK, SETTINGS
from benchmarks.step import fresh, loader_of
from gesso.configs import experiment
from gesso.models.layers import dropout
from gesso.pretrain.open import store_of
from gesso.pretrain.setup import compile_step_of, set_up

RATE = 0.1
RATES = [f"model.{where}_dropout" for where in ("embedding", "attention", "residual")]


def bernoulli(key: jax.Array, shape: tuple[int, ...], dropped: int) -> jax.Array:
    return jax.random.bernoulli(key, 1 - dropped / dropout._STEPS, shape)


def compare(settings: dict[str, Any], *, steps: int) -> dict[str, Any]:
    """Seconds of the three steps, taken in turn."""
    made = {name: _step(settings, name) for name in ("ours", "bernoulli", "none")}
    wall: dict[str, list[float]] = {name: [] for name in made}
    cpu: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(-1, steps):  # the first turn warms up and is not counted
        for name, (step, state, batch) in made.items():
            before = time.perf_counter(), time.process_time()
            state, _ = jax.block_until_ready(step(state, batch))
            after = time.perf_counter(), time.process_time()
            made[name] = step, state, batch
            if turn >= 0:
                wall[name].append(after[0] - before[0])
                cpu[name].append(after[1] - before[1])
    middle = {name: statistics.median(each) for name, each in cpu.items()}
    return {
        "ratio": round(statistics.median(wall["ours"]) / statistics.median(wall["bernoulli"]), 3),
        "cost": {
            name: round(middle[name] / middle["none"] - 1, 3) for name in ("ours", "bernoulli")
        },
        "seconds": {name: [round(x, 4) for x in each] for name, each in wall.items()},
    }


def _step(settings: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    """(compiled step, state, batch)."""
    rates = dict.fromkeys(RATES, 0.0 if name == "none" else RATE)
    e = experiment("bert-base", settings | rates)
    s = set_up(e, store=store_of(e))
    drawn = bernoulli if name == "bernoulli" else dropout._draw
    with mock.patch.object(dropout, "_draw", drawn):
        step = compile_step_of(s)
    with loader_of(s) as loader:
        return step, fresh(s), next(loader).arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 narrow layers, 2 x 128")
    asked = parser.parse_args()
    batch, length = (2, 128) if asked.quick else (asked.batch, asked.length)
    settings = SETTINGS | (QUICK if asked.quick else {}) | {"batch": batch, "length": length}
    print(json.dumps(compare(settings, steps=asked.steps) | {"batch": batch, "length": length}))


if __name__ == "__main__":
    main()
