"""From an experiment to what the loop runs: data, model, optimizer, mesh, the compiled step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from models import build
from models.count import flops_per_token
from models.model import Model
from objectives.base import Objective
from objectives.base import build as build_objective
from partitioning.axes import Layout
from partitioning.layouts import LAYOUTS
from partitioning.mesh import make_mesh
from pretrain.experiment import Experiment, validate
from pretrain.hardware import model_flops_utilization
from pretrain.optimizer import make_optimizer, parameter_names
from pretrain.schedule import make_schedule
from pretrain.state import State, abstract_state
from pretrain.step import StepSettings, batch_sharding, compile_step, make_train_step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a run is made of, laid out on its mesh; no parameter exists yet."""

    experiment: Experiment
    store: Any
    tokenizer: Any
    order: Any
    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    mesh: Mesh
    layout: Layout
    abstract: State


def set_up(experiment: Experiment, *, store: Any) -> Setup:
    """Check everything that can be checked, then build. `store`: data.open_store(...).

    Raises ExperimentError, PatternError and the data's ValueErrors before any device memory is
    taken.
    """
    from data.config import OrderConfig
    from data.order import Order

    tokenizer = store.tokenizer()
    validate(experiment, devices=jax.device_count(), tokenizer_vocab=tokenizer.vocab_size)
    objective = build_objective(experiment.objective)
    data = experiment.data
    order = Order(
        store,
        OrderConfig(
            length=objective.row_length(experiment.length),
            overlap=objective.overlap,
            packing=data.packing,
            seed=data.seed,
            mixture=data.mixture,
            skip=data.skip,
            wait_seconds=data.wait_seconds,
        ),
    )
    model = build(experiment.model)
    optimizer = make_optimizer(experiment.optimizer, model.letters, steps=experiment.steps)
    mesh, layout = make_mesh(experiment.mesh), LAYOUTS[experiment.layout]
    abstract = abstract_state(
        model, optimizer, mesh=mesh, layout=layout, dtype=experiment.precision.params
    )
    return Setup(
        experiment=experiment,
        store=store,
        tokenizer=tokenizer,
        order=order,
        model=model,
        objective=objective,
        optimizer=optimizer,
        mesh=mesh,
        layout=layout,
        abstract=abstract,
    )


def compiled_step(s: Setup) -> jax.stages.Compiled:
    """The training step of this run, compiled for its mesh."""
    e = s.experiment
    schedule = make_schedule(e.optimizer.schedule, steps=e.steps)
    m = e.model
    settings = StepSettings(
        compute=e.precision.compute,
        microbatches=e.microbatches,
        clip_norm=e.optimizer.clip_norm,
        components=len(s.order.components),
        seed=e.seed,
        dropout=max(m.embedding_dropout, m.attention_dropout, m.residual_dropout) > 0,
        learning_rate=lambda t: e.optimizer.learning_rate * schedule(t),
    )
    step = make_train_step(s.model, s.objective, s.optimizer, settings)
    return compile_step(step, s.abstract, abstract_batch(e, s.mesh), mesh=s.mesh, layout=s.layout)


def abstract_batch(experiment: Experiment, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch as jax.ShapeDtypeStructs with their shardings."""
    rows, length = experiment.batch, experiment.length
    leaves = {
        "tokens": ((rows, length), "int32"),
        "targets": ((rows, length), "int32"),
        "positions": ((rows, length), "int32"),
        "segments": ((rows, length), "int32"),
        "lm_weight": ((rows, length), "float32"),
        "component": ((rows,), "int32"),
        "row_crc": ((rows,), "uint32"),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, len(shape)))
        for name, (shape, dtype) in leaves.items()
    }


def utilization(s: Setup) -> Callable[[float], float | None]:
    """tokens per second -> MFU of this run's mesh, or None for chips we know no peak of."""
    flops = flops_per_token(s.experiment.model, s.experiment.length)
    devices = list(s.mesh.devices.flat)
    return lambda rate: model_flops_utilization(flops, rate, devices)


def parameter_table(s: Setup) -> list[dict[str, Any]]:
    """[{"name", "shape", "letters", "count"}] in tree order."""
    names = jax.tree.leaves(parameter_names(s.model.letters))
    letters = jax.tree.leaves(s.model.letters)
    shapes = jax.tree.leaves(s.abstract["params"])
    return [
        {"name": name, "shape": list(x.shape), "letters": each, "count": x.size}
        for name, each, x in zip(names, letters, shapes, strict=True)
    ]
