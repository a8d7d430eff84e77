"""The one training step: every objective, any mesh, any number of microbatches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gesso.models.model import Model
from gesso.objectives.base import Objective
from gesso.partitioning.axes import Layout, at_rest, gradient, partition
from gesso.pretrain.batch import Batch
from gesso.pretrain.optimizer.trained import Parts, everything
from gesso.pretrain.state import State

# Names the random stream of `Parts.combine` beside the objective's.
_OF_THE_PARTS = 0x9A275

Metrics = dict[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What the step needs beside the model, the objective and the optimizer.

    learning_rate: update number -> rate, for the metrics. clip_norm: 0 = never. components: how
    many the batch's "component" leaf counts. dropout: whether random keys are drawn at all.
    """

    compute: str = "float32"
    microbatches: int = 1
    clip_norm: float = 0.0
    components: int = 1
    seed: int = 0
    dropout: bool = False
    learning_rate: Callable[[jax.Array], jax.Array] = lambda t: jnp.float32(0)


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    s: StepSettings,
    parts: Parts | None = None,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """(state, batch) -> (state, metrics); traceable, to be compiled by `compile_step`.

    Denominators are counted over the whole global batch before the forward, so that packing,
    masks, microbatches and data parallelism change nothing. An update whose loss or gradient norm
    is no number leaves the state as it was, but for the step count (metrics["skipped"] = 1): what
    is carried from batch to batch too, so that rows may go on from the batch before the last.

    parts: what is trained, all of the model by default. The gradients, their norm and clipping, and
    the optimizer are of the trained tree alone; state["frozen"] comes back as it was.
    """
    chosen = parts or everything(model.letters)

    def place(tree: Any, letters: Any) -> Any:
        return at_rest(jax.tree.map(lambda x: x.astype(s.compute), tree), letters)

    def loss_fn(
        params: Any, frozen: Any, batch: Batch, carry: Any, key: Any, denominators: Any
    ) -> Any:
        trained, kept = place(params, chosen.letters), place(frozen, chosen.frozen_letters)
        own_key = None if key is None else jax.random.fold_in(key, _OF_THE_PARTS)
        module = model.merge(chosen.combine(trained, kept, own_key))
        if carry is None:
            losses, after = objective(module, batch, key), None
        else:
            carrying: Any = objective
            losses, after = carrying.carried(module, batch, key, carry)
        sums = {
            name: jnp.sum(losses[name] * batch[term.weight])
            for name, term in objective.terms.items()
        }
        means = {name: sums[name] / denominators[name] for name in sums}
        loss = sum(term.coefficient * means[name] for name, term in objective.terms.items())
        by_component = _by_component(losses, batch, objective, s.components)
        return loss, (means | {"loss": loss} | by_component, after)

    def gradients(trees: Any, batch: Batch, carry: Any, key: Any, denominators: Any) -> Any:
        (_, (metrics, after)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            *trees, batch, carry, key, denominators
        )
        return (gradient(grads, chosen.letters), metrics), after

    # Weight leaves of the terms that predict tokens, each once.
    predicted = dict.fromkeys(t.weight for t in objective.terms.values() if t.targets)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        params, frozen = state["params"], state.get("frozen", {})
        trees = (params, frozen)
        key = jax.random.fold_in(jax.random.key(s.seed), state["step"]) if s.dropout else None
        denominators = {
            name: jnp.maximum(jnp.sum(batch[term.weight]), 1.0)
            for name, term in objective.terms.items()
        }
        counts = {
            name: _rows_and_places(batch[name])
            for name in dict.fromkeys(term.weight for term in objective.terms.values())
        }
        counted = {name: leaf for name, leaf in batch.items() if name != "row_crc"}
        rows = (counted, state.get("carry"))
        if s.microbatches == 1:
            (grads, metrics), after = gradients(trees, *rows, key, denominators)
        else:
            (grads, metrics), after = _accumulate(gradients, trees, rows, key, denominators, s)
        norm = optax.tree.norm(grads)
        if s.clip_norm:
            factor = jnp.minimum(1.0, s.clip_norm / jnp.maximum(norm, 1e-16))
            grads = jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)
        # Laid out as the optimizer's state is: a device updates its part of each parameter.
        before = gradient(params, chosen.letters)
        updates, opt_state = optimizer.update(grads, state["opt_state"], before)
        after_update = gradient(optax.apply_updates(before, updates), chosen.letters)
        updated = {"params": after_update, "opt_state": opt_state}
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        if after is not None:
            updated["carry"] = after
        kept = {name: state[name] for name in updated}
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), updated, kept)
        metrics |= {
            "grad_norm": norm,
            "learning_rate": s.learning_rate(state["step"]),
            "skipped": 1 - finite.astype(jnp.int32),
            "tokens": sum(jnp.sum(batch[name] > 0) for name in batch if name.endswith("segments")),
            "counts": counts,
            "loss_tokens": sum(counts[name][1] for name in predicted),
            "row_crc": batch["row_crc"],
        }
        new["step"] = state["step"] + 1
        return new | ({"frozen": frozen} if frozen else {}), metrics

    return step


def compile_step(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    state: State,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    *,
    mesh: Mesh,
    layout: Layout,
) -> jax.stages.Compiled:
    """`step` compiled ahead of its first use for this mesh.

    `state` and `batch` may be arrays or jax.ShapeDtypeStructs. The state is donated, except on
    CPU, where XLA copies donated buffers (4 to 13 % of a step, measured).
    """
    return trace_step(step, state, batch, mesh=mesh, layout=layout).lower().compile()


def trace_step(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    state: State,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    *,
    mesh: Mesh,
    layout: Layout,
) -> jax.stages.Traced:
    """As `compile_step`, not yet compiled: its `jaxpr` is the whole mesh's program."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    rows = {name: leaf.sharding for name, leaf in batch.items()}
    donated = () if mesh.devices.flat[0].platform == "cpu" else (0,)
    with partition(mesh, layout):
        jitted = jax.jit(
            step,
            in_shardings=(shardings, rows),
            out_shardings=(shardings, NamedSharding(mesh, P())),
            donate_argnums=donated,
        )
        return jitted.trace(state, batch)


def _rows_and_places(weight: jax.Array) -> jax.Array:
    """i32[2]: the rows and the places that a weight leaf counts."""
    places = (weight > 0).reshape(weight.shape[0], -1).sum(1)
    return jnp.stack([jnp.sum(places > 0), jnp.sum(places)]).astype(jnp.int32)


def _by_component(
    losses: Mapping[str, jax.Array], batch: Batch, objective: Objective, components: int
) -> Metrics:
    """Sums of the first term's losses and weights over the rows of each component."""
    name, term = next(iter(objective.terms.items()))
    weight = batch[term.weight]
    member = jax.nn.one_hot(batch["component"], components, dtype=jnp.float32)
    return {
        "component_loss": jnp.sum(losses[name] * weight, axis=1) @ member,
        "component_weight": jnp.sum(weight, axis=1) @ member,
    }


def _accumulate(
    gradients: Callable[..., Any],
    trees: Any,
    rows: tuple[Batch, Any],
    key: jax.Array | None,
    denominators: Any,
    s: StepSettings,
) -> Any:
    """Sums of gradients and metrics over microbatches, and what all rows carry on; part m is rows
    m, m + M, ...: a device keeps its rows."""
    split = jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(-1, s.microbatches, *leaf.shape[1:]), 0, 1), rows
    )
    keys = None if key is None else jax.random.split(key, s.microbatches)

    def add(total: Any, part: Any) -> Any:
        (batch, carry), part_key = part
        sums, after = gradients(trees, batch, carry, part_key, denominators)
        return jax.tree.map(jnp.add, total, sums), after

    first = jax.tree.map(lambda leaf: leaf[0], (split, keys))
    shapes, _ = jax.eval_shape(
        lambda t, rows, k: gradients(t, *rows, k, denominators), trees, *first
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, after = jax.lax.scan(add, zeros, (split, keys))
    joined = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), after)
    return total, joined
