"""ELMo's loop over time beside a straightforward one: a scan whose every step multiplies [x; h] by
the gates' weights, each direction by itself, differentiated by autodiff.

    python -m benchmarks.elmo [--batches 1 4 16 --length 64 --steps 5] [--quick]
    python -m benchmarks.elmo --topology v5e:2x2     (where jax[tpu] is installed; needs no TPU)

Prints one JSON document, of elmo-small's layers (2 of 1024 cells projected to 128, both directions,
float32). lstm: loss and gradients of the LSTM layers alone, by batch: tokens per CPU-second and per
second of both, and their ratios. step: the same of a whole training step (characters, layers, a
softmax of 4096 words, Adagrad) of the first batch. length: our layers' tokens per CPU-second and
seconds to compile at rows of 32 to 256 tokens. The best of several
turns, taken in turn, in one process; CPU-seconds disturb less on a busy machine.

With --topology nothing runs: the layers of elmo-original (4096 cells projected to 512) in bfloat16,
rows of 20 tokens as published, are compiled for one chip, and the TPU compiler's estimates of their
cycles are compared.
"""

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gesso.configs import experiment
from gesso.models import build
from gesso.models.elmo.lstm import FORGET, BiLSTM, Marks, State
from gesso.planning.hlo import collectives

VOCAB, CHARACTERS = 4096, 50


def plain(module: BiLSTM, x_ULBD: jax.Array, marks: Marks | None, state: State) -> Any:
    """What BiLSTM computes, written as one would first: all of a time step inside its step."""
    c = module.config

    def direction(u: int) -> Any:
        kernel = jnp.concatenate([module.read[...][u], module.recur[...][u]], axis=1)
        kernel = kernel.swapaxes(0, 1).reshape(2 * c.embed, 4 * c.cell)
        bias = module.bias[...][u].at[FORGET].add(1.0).reshape(-1)

        def step(state: State, x_BD: jax.Array) -> tuple[State, jax.Array]:
            gates = (
                jnp.concatenate([x_BD, state.hidden.astype(x_BD.dtype)], axis=-1) @ kernel + bias
            )
            i, j, f, o = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(j)
            cell = jnp.clip(cell, -c.cell_clip, c.cell_clip)
            hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(x_BD.dtype) @ module.project[...][
                u
            ]
            hidden = jnp.clip(hidden, -c.projection_clip, c.projection_clip)
            return State(cell, hidden.astype(state.hidden.dtype)), hidden

        return jax.lax.scan(step, State(state.cell[u], state.hidden[u]), x_ULBD[u])

    after, said = zip(direction(0), direction(1), strict=True)
    return jnp.stack(said), jax.tree.map(lambda *each: jnp.stack(each), *after)


@contextlib.contextmanager
def _as(layer: Callable[..., Any]) -> Iterator[None]:
    kept, BiLSTM.__call__ = BiLSTM.__call__, layer
    try:
        yield
    finally:
        BiLSTM.__call__ = kept


def layers_alone(config: Any, *, batch: int, length: int, layer: Any) -> tuple[Any, Any, float]:
    """(compiled loss and gradients, their arguments, seconds to compile)."""
    model = build(config)
    params = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch, length, config.embed))

    def loss(layers: Any, x_BLD: jax.Array) -> jax.Array:
        module = model.merge(params | {"layers": layers})
        said, _ = module.read((x_BLD, x_BLD), (None, None), module.start(config, batch))
        return jnp.sum(jnp.square(said[-1]))

    with _as(layer):
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params["layers"], x)
    start = time.perf_counter()
    compiled = traced.compile()
    return compiled, (params["layers"], x), time.perf_counter() - start


def whole_step(config: Any, *, batch: int, length: int, layer: Any) -> tuple[Any, Any, float]:
    """The same of a training step without data: random words, both directions' losses, Adagrad."""
    model, optimizer = build(config), optax.adagrad(0.2)
    params = jax.jit(model.init)(jax.random.key(0))
    random = np.random.default_rng(0)
    characters = random.integers(97, 123, (batch, length, CHARACTERS)).astype(np.int16)
    characters[..., 9:] = 260
    targets = random.integers(0, VOCAB, (batch, length)).astype(np.int32)

    def loss(params: Any) -> jax.Array:
        out = model.merge(params).outputs({"characters": characters}, None, hidden=False)
        costs = [
            optax.softmax_cross_entropy_with_integer_labels(out[f"{d}_logits"], targets).mean()
            for d in ("forward", "backward")
        ]
        return 0.5 * (costs[0] + costs[1])

    def step(params: Any, state: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return value, optax.apply_updates(params, updates), state

    with _as(layer):
        traced = jax.jit(step).lower(params, optimizer.init(params))
    start = time.perf_counter()
    compiled = traced.compile()
    return compiled, (params, optimizer.init(params)), time.perf_counter() - start


def compare(make: Any, config: Any, *, batch: int, length: int, steps: int) -> dict[str, float]:
    """Tokens per CPU-second and per second of both, the best of `steps` turns."""
    made = {
        name: make(config, batch=batch, length=length, layer=layer)
        for name, layer in (("ours", BiLSTM.__call__), ("plain", plain))
    }
    best = {name: [1e9, 1e9] for name in made}
    results: dict[str, Any] = {}
    for _ in range(steps + 1):
        for name, (run, arguments, _) in made.items():
            cpu, start = time.process_time(), time.perf_counter()
            results[name] = jax.block_until_ready(run(*arguments))
            spent = time.process_time() - cpu, time.perf_counter() - start
            best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    ours, theirs = (jax.tree.leaves(results[name]) for name in ("ours", "plain"))
    for a, b in zip(ours, theirs, strict=True):
        if float(jnp.abs(a - b).max()) > 1e-3 * float(jnp.abs(b).max()) + 1e-6:
            raise SystemExit("not the same layers: their results differ")
    tokens = batch * length
    return {
        "ours_per_cpu_second": round(tokens / best["ours"][0]),
        "plain_per_cpu_second": round(tokens / best["plain"][0]),
        "cpu_ratio": round(best["plain"][0] / best["ours"][0], 2),
        "ours_per_second": round(tokens / best["ours"][1]),
        "plain_per_second": round(tokens / best["plain"][1]),
        "ratio": round(best["plain"][1] / best["ours"][1], 2),
    }


def by_length(config: Any, *, batch: int, lengths: tuple[int, ...], steps: int) -> dict[str, Any]:
    """{length: our layers' tokens per CPU-second, and what they took to compile}."""
    found = {}
    for length in lengths:
        run, arguments, seconds = layers_alone(
            config, batch=batch, length=length, layer=BiLSTM.__call__
        )
        spent = []
        for _ in range(steps + 1):
            start = time.process_time()
            jax.block_until_ready(run(*arguments))
            spent.append(time.process_time() - start)
        rate = round(batch * length / min(spent))
        found[str(length)] = {"per_cpu_second": rate, "compile_seconds": round(seconds, 2)}
    return found


def compiled_for(config: Any, topology: str, batches: list[int]) -> dict[str, Any]:
    """{batch: estimated cycles of both, their ratio, GiB of temporary memory} on one chip."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    where = jax.sharding.SingleDeviceSharding(described.devices[0])
    model = build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    length = 20

    def loss(layers: Any, x_BLD: jax.Array) -> jax.Array:
        rest = jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), params)
        cast = jax.tree.map(lambda each: each.astype(x_BLD.dtype), rest | {"layers": layers})
        state = model.merge(cast).start(config, len(x_BLD))
        said, _ = model.merge(cast).read((x_BLD, x_BLD), (None, None), state)
        return jnp.sum(jnp.square(said[-1].astype(jnp.float32)))

    def estimated(batch: int, layer: Any) -> tuple[float, float]:
        x = jax.ShapeDtypeStruct((batch, length, config.embed), jnp.bfloat16, sharding=where)
        layers = jax.tree.map(
            lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=where),
            params["layers"],
        )
        with _as(layer):
            made = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(layers, x).compile()
        _, cycles = collectives(made.as_text() or "")
        memory: Any = made.memory_analysis()
        return cycles, memory.temp_size_in_bytes / 2**30

    found = {}
    for batch in batches:
        (ours, our_gib), (theirs, their_gib) = (
            estimated(batch, layer) for layer in (BiLSTM.__call__, plain)
        )
        found[f"batch {batch}"] = {
            "ours_cycles": ours,
            "plain_cycles": theirs,
            "ratio": round(theirs / ours, 2),
            "ours_gib": round(our_gib, 3),
            "plain_gib": round(their_gib, 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 1, 16])
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="64 cells, rows of 16 tokens")
    parser.add_argument("--topology", default="", help="compile for this TPU instead: v5e:2x2")
    asked = parser.parse_args()
    small = {"vocab": VOCAB, "dropout": 0.0, "chunk_words": 16}
    if asked.topology:
        config = dataclasses.replace(experiment("elmo-original").model, **small)
        found = compiled_for(config, asked.topology, asked.batches)
        print(json.dumps({asked.topology: found}, indent=1))
        return
    config = dataclasses.replace(experiment("elmo-small").model, **small)
    batches, length, lengths = asked.batches, asked.length, (32, 64, 128, 256)
    if asked.quick:
        config = dataclasses.replace(config, cell=64, embed=16, filters=((1, 8), (3, 8)))
        batches, length, lengths = [2], 16, (8, 16)
    sizes = {"length": length, "steps": asked.steps}
    found = {
        "lstm": {
            f"batch {batch}": compare(layers_alone, config, batch=batch, **sizes)
            for batch in batches
        },
        "step": {
            f"batch {batches[0]}": compare(whole_step, config, batch=batches[0], **sizes),
        },
        "length": by_length(config, batch=batches[0], lengths=lengths, steps=asked.steps),
    }
    print(json.dumps(found | {"tokens_per_row": length}, indent=1))


if __name__ == "__main__":
    main()
