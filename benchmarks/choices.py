"""Rank classification: options per second with the prompt read once, beside every option from
scratch.

    python -m benchmarks.choices [--questions 32 --turns 5] [--quick]

Prints one JSON document. Questions of 128 to 256 ids with 4 options of 4 to 16 each, drawn from a
seed, through a GPT of 4 layers of 256 (9 million parameters, float32, random weights). ratio:
options per second of evaluation.generation.continuations.likelihoods, prompts shared, over those of
the full forward of prompt and option, padded to the same lengths, 32 rows at a time, whose head
sees the options' places only. cached_ratio: over `likelihoods` with every option asked alone.
Medians of turns taken in turn in one process, compilation left out. apart: the largest difference
between the scores, in nats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.evaluation.generation.continuations import Asked, likelihoods
from gesso.models import GPTConfig, build
from gesso.models.model import Model

ROWS, LENGTH, OPTION = 32, 272, 16
CONFIG = GPTConfig(
    vocab=8192, positions=320, layers=4, embed=256, heads=4, mlp=1024, init_std=0.05, head="untied"
)


def questions(count: int) -> list[Asked]:
    """Prompts and options of random ids."""
    drawn = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return drawn.integers(1, CONFIG.vocab, drawn.integers(low, high + 1)).tolist()

    return [Asked(ids(128, 256), [ids(4, OPTION) for _ in range(4)]) for _ in range(count)]


def from_scratch(model: Model) -> Callable[[Any, Sequence[Asked]], list[float]]:
    """Nats of every option, each in a row of its own with its prompt."""

    @jax.jit
    def run(params: Any, tokens_BL: jax.Array, begin_B: jax.Array, size_B: jax.Array) -> jax.Array:
        module = model.merge(params)
        places_BO = begin_B[:, None] + jnp.arange(OPTION)
        hidden_BLD = module.features({"tokens": tokens_BL})
        picked_BOD = jnp.take_along_axis(hidden_BLD, places_BO[..., None] - 1, 1)
        logits_BOV = module.logits(picked_BOD).astype(jnp.float32)
        targets_BO = jnp.take_along_axis(tokens_BL, places_BO, 1)
        at_target_BO = jnp.take_along_axis(logits_BOV, targets_BO[..., None], -1)[..., 0]
        nats_BO = at_target_BO - jax.nn.logsumexp(logits_BOV, -1)
        return jnp.where(jnp.arange(OPTION) < size_B[:, None], nats_BO, 0).sum(1)

    def score(params: Any, asked: Sequence[Asked]) -> list[float]:
        pairs = [(each.given, option) for each in asked for option in each.options]
        found: list[float] = []
        for at in range(0, len(pairs), ROWS):
            part = pairs[at : at + ROWS]
            tokens = np.zeros((ROWS, LENGTH), np.int32)
            begin, size = np.ones(ROWS, np.int32), np.zeros(ROWS, np.int32)
            for row, (given, option) in enumerate(part):
                tokens[row, : len(given) + len(option)] = [*given, *option]
                begin[row], size[row] = len(given), len(option)
            found += np.asarray(run(params, tokens, begin, size))[: len(part)].tolist()
        return found

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="8 questions, 2 turns")
    asked = parser.parse_args()
    count, turns = (8, 2) if asked.quick else (asked.questions, asked.turns)
    model, made = build(CONFIG), questions(count)
    params = jax.jit(model.init)(jax.random.key(0))
    scratch = from_scratch(model)
    alone = [Asked(each.given, [option]) for each in made for option in each.options]

    def cached(asked: Sequence[Asked]) -> list[float]:
        found = likelihoods(model, params, asked, rows=ROWS)
        return [option.nats for each in found for option in each]

    ways = {
        "shared": lambda: cached(made),
        "scratch": lambda: scratch(params, made),
        "alone": lambda: cached(alone),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[float]] = {}
    for turn in range(-1, turns):  # one turn compiles and is not counted
        for name, way in ways.items():
            start = time.perf_counter()
            scores[name] = way()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    apart = max(
        float(np.abs(np.subtract(scores["shared"], scores[name])).max())
        for name in ("scratch", "alone")
    )
    if apart > 1e-3:
        raise SystemExit(f"the scores differ by {apart} nats")
    found = {
        "ratio": round(middle["scratch"] / middle["shared"], 2),
        "cached_ratio": round(middle["alone"] / middle["shared"], 2),
        "options_per_second": {name: round(4 * count / each, 1) for name, each in middle.items()},
        "apart": apart,
        "questions": count,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
