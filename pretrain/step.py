"""The one training step: every objective, any mesh, any number of microbatches.

The order is the point: denominators are counted over the whole global batch, then the gradients of
sums over them are taken, then there is one update. Nothing is averaged twice, so how a batch is cut
(microbatches, devices, packed rows) changes no result beyond rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gesso.models.model import Model, Params
from gesso.objectives.base import Objective
from gesso.partitioning.axes import Layout, at_rest, gradient, partition
from gesso.pretrain.batch import Batch
from gesso.pretrain.optimizer.trained import Parts, everything
from gesso.pretrain.state import State

# Folded into the step's key: the random stream of `Parts.combine`, apart from the objective's.
_PARTS_STREAM = 0x9A275

# Scalars by name, but "counts", {weight leaf: i32[2]}, "row_crc" u32[B] and the two arrays by
# component.
Metrics = dict[str, Any]
# What an objective carries from batch to batch, {name: array}; None where it carries nothing.
Carry = dict[str, jax.Array] | None
# ((gradients of the trained tree, metrics), the carry after the batch)
Gradients = tuple[tuple[Params, Metrics], Carry]


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
    masks, microbatches and data parallelism change nothing. An update with a NaN or infinite loss
    or gradient norm leaves the state as it was, but for the step count (metrics["skipped"] = 1):
    what is carried from batch to batch too, so that rows may go on from the batch before the last.

    parts: what is trained, all of the model by default. The gradients, their norm and clipping, and
    the optimizer are of the trained tree alone; state["frozen"] comes back as it was.
    """
    chosen = parts or everything(model.letters)
    terms = objective.terms

    def place(tree: Params, letters: Params) -> Params:
        # Cast while it is split: what is gathered after that is half as large in bfloat16.
        return at_rest(jax.tree.map(lambda x: x.astype(s.compute), tree), letters)

    def loss_fn(
        params: Params,
        frozen: Params,
        batch: Batch,
        carry: Carry,
        key: jax.Array | None,
        denominators: Metrics,
    ) -> tuple[Any, tuple[Metrics, Carry]]:
        trained, kept = place(params, chosen.letters), place(frozen, chosen.frozen_letters)
        parts_key = None if key is None else jax.random.fold_in(key, _PARTS_STREAM)
        module = model.merge(chosen.combine(trained, kept, parts_key))
        if carry is None:
            losses, after = objective(module, batch, key), None
        else:
            losses, after = objective.call_with_carry(module, batch, key, carry)
        # The one division. Denominators are the whole batch's even where `batch` is a microbatch of
        # it: sums over microbatches of these quotients are then the means over the batch.
        sums = {name: jnp.sum(losses[name] * batch[term.weight]) for name, term in terms.items()}
        means = {name: sums[name] / denominators[name] for name in sums}
        loss = sum(term.coefficient * means[name] for name, term in terms.items())
        by_component = _by_component(losses, batch, objective, s.components)
        return loss, (means | {"loss": loss} | by_component, after)

    def gradients(
        trees: tuple[Params, Params],
        batch: Batch,
        carry: Carry,
        key: jax.Array | None,
        denominators: Metrics,
    ) -> Gradients:
        # With respect to the first argument alone, `params`: what is frozen has no gradient.
        (_, (metrics, after)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            *trees, batch, carry, key, denominators
        )
        return (gradient(grads, chosen.letters), metrics), after

    # Weight leaves of the terms that predict tokens, each once.
    predicted = dict.fromkeys(term.weight for term in terms.values() if term.targets)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        params, frozen = state["params"], state.get("frozen", {})
        # A key of the step's number, not of a stored generator: a restarted run draws the same.
        key = jax.random.fold_in(jax.random.key(s.seed), state["step"]) if s.dropout else None
        # At least 1: a batch without a single target has loss 0, not 0 / 0.
        denominators = {
            name: jnp.maximum(jnp.sum(batch[term.weight]), 1.0) for name, term in terms.items()
        }
        counts = {
            name: _rows_and_places(batch[name])
            for name in dict.fromkeys(term.weight for term in terms.values())
        }
        # A row's checksum is for the records; no microbatch needs it.
        counted = {name: leaf for name, leaf in batch.items() if name != "row_crc"}
        trees, rows = (params, frozen), (counted, state.get("carry"))
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
        # Decided on the device: the host learns of it a step later and never waits.
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        if after is not None:
            updated["carry"] = after
        kept = {name: state[name] for name in updated}
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), updated, kept)
        metrics |= {
            "grad_norm": norm,
            "learning_rate": s.learning_rate(state["step"]),
            "skipped": 1 - finite.astype(jnp.int32),
            # Segment 0 is padding; an encoder-decoder has two such leaves.
            "tokens": sum(jnp.sum(batch[name] > 0) for name in batch if name.endswith("segments")),
            "counts": counts,
            "loss_tokens": sum(counts[name][1] for name in predicted),
            "row_crc": batch["row_crc"],
        }
        # Counted where the update was skipped, too: its rows and its key are used up.
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
        # Both shardings are written out: left to the compiler, the state could come back laid out
        # otherwise, and this program would not take it again.
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
    gradients: Callable[..., Gradients],
    trees: tuple[Params, Params],
    rows: tuple[Batch, Carry],
    key: jax.Array | None,
    denominators: Metrics,
    s: StepSettings,
) -> Gradients:
    """Sums of gradients and metrics over microbatches, and what all rows carry on; microbatch m is
    rows m, m + M, ...: a device keeps its rows."""
    # Neighbouring rows, which one device holds, go to different microbatches, so no row moves.
    # Reshaped to (M, B / M), a microbatch would be the rows of a few devices.
    split = jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(-1, s.microbatches, *leaf.shape[1:]), 0, 1), rows
    )
    keys = None if key is None else jax.random.split(key, s.microbatches)

    def add(
        total: tuple[Params, Metrics], part: tuple[tuple[Batch, Carry], jax.Array | None]
    ) -> Gradients:
        (batch, carry), part_key = part
        sums, after = gradients(trees, batch, carry, part_key, denominators)
        return jax.tree.map(jnp.add, total, sums), after

    first = jax.tree.map(lambda leaf: leaf[0], (split, keys))
    shapes, _ = jax.eval_shape(
        lambda t, rows, k: gradients(t, *rows, k, denominators), trees, *first
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # A scan, not a loop that is unrolled: the memory of one microbatch's activations, and one copy
    # of the program whatever M is.
    total, after = jax.lax.scan(add, zeros, (split, keys))
    joined = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), after)
    return total, joined
