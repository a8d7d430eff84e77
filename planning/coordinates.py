"""The coordinate check of muP: how far activations move in a few updates, by width.

Under muP no activation's size depends on the width as training goes on; under the standard
parametrisation some grow with it (https://arxiv.org/abs/2203.03466, appendix D.1).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.store.base import Store
from gesso.models.config import GPTConfig
from gesso.partitioning.axes import partition
from gesso.partitioning.mesh import settle
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.setup import compile_step_of, set_up
from gesso.reports.sweep.coordinates import Coordinates, Parametrisation


def coordinates(
    experiment: Experiment,
    *,
    widths: Sequence[int],
    steps: int = 4,
    seeds: int = 2,
    store: Store,
    told: Callable[[str], None] = lambda text: None,
) -> list[Coordinates]:
    """The check of a GPT experiment at these widths, each in the standard parametrisation and in
    muP with the narrowest as base. told: hears what is done. Raises ExperimentError for another
    family or widths that do not divide into heads, before anything runs.
    """
    widths = sorted(set(widths))
    bases: dict[Parametrisation, int] = {"standard": 0, "muP": widths[0]}
    asked: list[tuple[Parametrisation, int, Experiment]] = [
        (kind, width, widen(experiment, width, base=base, steps=steps))
        for kind, base in bases.items()
        for width in widths
    ]
    found = []
    for kind, width, made in asked:
        told(f"{kind}, width {width}")
        pairs = _measure(made, store, seeds=range(experiment.seed, experiment.seed + seeds))
        start, change = (
            {name: float(np.mean([pair[i][name] for pair in pairs])) for name in pairs[0][i]}
            for i in (0, 1)
        )
        found.append(Coordinates(parametrisation=kind, width=width, start=start, change=change))
    return found


def widen(experiment: Experiment, width: int, *, base: int, steps: int) -> Experiment:
    """The experiment at another width, with as many more heads and as much more mlp, an untied
    head, a constant rate and no decay. base: model.mup_base."""
    model = experiment.model
    if not isinstance(model, GPTConfig):
        raise ExperimentError(f"muP is for the gpt family, not {model.family}")
    if width < 1 or width % model.head_dim:
        raise ExperimentError(
            f"width {width} does not divide into heads of {model.head_dim}; try"
            f" {max(width // model.head_dim, 1) * model.head_dim}"
        )
    wide = dataclasses.replace(
        model,
        embed=width,
        heads=width // model.head_dim,
        mlp=max(1, round(width * model.mlp / model.embed)),
        head="untied",
        mup_base=base,
    )
    schedule = dataclasses.replace(
        experiment.optimizer.schedule, kind="constant", warmup_steps=0, decay_steps=0
    )
    optimizer = dataclasses.replace(
        experiment.optimizer, schedule=schedule, weight_decay=0.0, no_decay=()
    )
    return dataclasses.replace(experiment, model=wide, optimizer=optimizer, steps=steps, phases=())


def _measure(
    experiment: Experiment, store: Store, *, seeds: Sequence[int]
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """(start, change) for each seed of the parameters; all see the same batches."""
    from gesso.data.loader import Loader
    from gesso.pretrain.initial import fresh_state

    s = set_up(experiment, store=store)
    step = compile_step_of(s)
    loader = Loader(
        s.order, s.objective.host_batch, letters=s.objective.letters, mesh=s.mesh,
        batch=experiment.batch, start_row=0, prefetch=1,
    )  # fmt: skip
    following = iter(loader)
    looked_at, *batches = [next(following).arrays for _ in range(experiment.steps + 1)]
    loader.close()
    look = jax.jit(lambda params: _activations(s.model, params, looked_at))
    pairs = []
    for seed in seeds:
        state = fresh_state(
            dataclasses.replace(s, experiment=dataclasses.replace(experiment, seed=seed))
        )
        with partition(s.mesh, s.layout):
            before = look(state["params"])
            for batch in batches:
                state, metrics = step(state, batch)
                settle(metrics)
            after = look(state["params"])
        moved = {name: after[name] - before[name] for name in before}
        pairs.append((_sizes(before), _sizes(moved)))
    return pairs


def _sizes(tree: dict[str, jax.Array]) -> dict[str, float]:
    # A jitted function returns its names sorted: back into the order of the model.
    blocks = [f"block {i + 1}" for i in range(len(tree) - 3)]
    names = ("embedding", *blocks, "features", "logits")
    return {name: float(jnp.sqrt(jnp.mean(tree[name] ** 2))) for name in names}


def _activations(model: Any, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    made = model.apply(params, batch, hidden=True)
    embedding, *blocks, features = made["hidden"]
    named = {f"block {i + 1}": x for i, x in enumerate(blocks)}
    return {"embedding": embedding, **named, "features": features, "logits": made["logits"]}
