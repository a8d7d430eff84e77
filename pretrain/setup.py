"""From an experiment to what the loop runs: data, model, optimizer, mesh, the compiled step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from gesso.data.config import OrderConfig
from gesso.data.open import order_of
from gesso.data.order.base import RowOrder
from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.models import build
from gesso.models.config import ELMoConfig
from gesso.models.model import Model, Params
from gesso.models.trained_count import trained_flops_per_token
from gesso.models.trees import flat
from gesso.objectives.base import Objective
from gesso.objectives.config import BiLMConfig, ObjectiveConfig
from gesso.objectives.kinds import build as build_objective
from gesso.partitioning.axes import Layout, partition
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.machines.chips import model_flops_utilization
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.batch import abstract_batch
from gesso.pretrain.checks import validate
from gesso.pretrain.experiment import Experiment
from gesso.pretrain.optimizer.mup import rates
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.optimizer.schedule import make_schedule
from gesso.pretrain.optimizer.trained import Parts, parts_of
from gesso.pretrain.origins.adapter import adapter_parts, adapter_shapes
from gesso.pretrain.phases import phase_experiment, schedule_range
from gesso.pretrain.placeholders import count_placeholders
from gesso.pretrain.state import State, abstract_state
from gesso.pretrain.step import StepSettings, compile_step, make_train_step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a run is made of, laid out on its mesh; no parameter exists yet. parts: what is
    trained. schedule: the updates that the learning rate is scheduled over."""

    experiment: Experiment
    store: Store
    tokenizer: Tokenizer
    order: RowOrder
    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    mesh: Mesh
    layout: Layout
    abstract: State
    parts: Parts
    schedule: range

    def whole(self, state: State) -> Params:
        """The model's parameters of a state, trained and frozen together, as the step, evaluation
        and export have them; arrays on the mesh."""
        if "frozen" not in state:
            return state["params"]
        with partition(self.mesh, self.layout):
            return self.parts.whole(state["params"], state["frozen"])


def set_up(experiment: Experiment, *, store: Store, phase: int | None = None) -> Setup:
    """Check everything that can be checked, then build. `store`: data.open_store(...). phase: the
    part of the run (pretrain/phases.py), the last by default.

    Raises ExperimentError, PatternError and the data's ValueErrors before any device memory is
    taken.
    """
    schedule = schedule_range(experiment, -1 if phase is None else phase)
    experiment = experiment if phase is None else phase_experiment(experiment, phase)
    tokenizer = store.tokenizer()
    # Words beyond the classes are read by their characters, so no table needs a row for them.
    model = experiment.model
    spelled = isinstance(model, ELMoConfig) and model.reads == "characters"
    ids = tokenizer.classes if spelled else tokenizer.vocab_size
    validate(experiment, devices=jax.device_count(), tokenizer_vocab=ids)
    objective = build_objective(
        experiment.objective, tokenizer=tokenizer, model=experiment.model, store=store
    )
    order = _order(experiment, store, objective)
    objective = count_placeholders(objective, experiment.adapter)
    if experiment.adapter.kind == "p_tuning":
        objective.host_batch(order.take(order.visit(0, experiment.batch)))
    objective.check(order.take)
    model = build(experiment.model)
    parts, optimizer = parts_and_optimizer(experiment, model, schedule)
    mesh, layout = make_mesh(experiment.mesh), LAYOUTS[experiment.layout]
    abstract = abstract_state(
        model,
        optimizer,
        mesh=mesh,
        layout=layout,
        dtype=experiment.precision.params,
        carry=objective.carry,
        rows=experiment.batch,
        parts=parts,
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
        parts=parts,
        schedule=schedule,
    )


def _order(e: Experiment, store: Store, objective: Objective) -> Any:
    """The rows of a store as this objective reads them."""
    return order_of(
        store,
        OrderConfig(
            length=objective.row_length(e.length),
            overlap=objective.overlap,
            overhead=objective.overhead,
            companions=objective.companions,
            packing=e.data.packing,
            streams=e.batch if e.data.packing == "stream" else 0,
            seed=e.data.seed,
            mixture=e.data.mixture,
            skip=e.data.skip,
            examples=e.data.examples,
            frame=objective.framing,
            wait_seconds=e.data.wait_seconds,
        ),
    )


def parts_and_optimizer(
    experiment: Experiment, model: Model, schedule: range
) -> tuple[Parts, optax.GradientTransformation]:
    """What an experiment trains of a model, and the optimizer that does it. schedule: the updates
    that the learning rate is scheduled over. Raises PatternError."""
    e = experiment
    shapes = {
        name: x.shape for name, x in flat(jax.eval_shape(model.init, jax.random.key(0))).items()
    }
    if e.adapter.kind != "none":
        parts = adapter_parts(e.adapter, model, trainable=e.trainable)
        shapes |= adapter_shapes(e.adapter, model)
    else:
        parts = parts_of(model.letters, shapes, trainable=e.trainable, first_layer=e.first_layer)
    optimizer = make_optimizer(
        rates(e.optimizer, e.model, flat(model.letters)),
        parts.letters,
        steps=len(schedule),
        whole=shapes,
        counts="each" if e.stages else "one",
    )
    return parts, optimizer


def compile_step_of(s: Setup) -> jax.stages.Compiled:
    """The training step of this run, compiled for its mesh."""
    e = s.experiment
    settings = step_settings(e, components=len(s.order.components), updates=s.schedule)
    step = make_train_step(s.model, s.objective, s.optimizer, settings, s.parts)
    batch = abstract_batch(s.objective, rows=e.batch, length=e.length, mesh=s.mesh)
    return compile_step(step, s.abstract, batch, mesh=s.mesh, layout=s.layout)


def step_settings(
    experiment: Experiment, *, components: int, updates: range | None = None
) -> StepSettings:
    """What an experiment says about its step. components: how many the data has. updates: those
    that the learning rate is scheduled over, all by default."""
    e = experiment
    updates = updates or range(e.steps)
    schedule = make_schedule(e.optimizer.schedule, steps=len(updates))
    return StepSettings(
        compute=e.precision.compute,
        microbatches=e.microbatches,
        clip_norm=e.optimizer.clip_norm,
        components=components,
        seed=e.seed,
        dropout=e.model.drops or e.adapter.dropout > 0 or _draws(e.objective),
        learning_rate=lambda t: e.optimizer.learning_rate * schedule(t - updates.start),
    )


def _draws(objective: ObjectiveConfig) -> bool:
    """Whether an objective draws random numbers in a training step."""
    return isinstance(objective, BiLMConfig) and objective.draws


def weight_leaves(objective: Objective) -> tuple[str, ...]:
    """The weight leaves whose rows and places a record counts: all, where there are several."""
    leaves = tuple(dict.fromkeys(term.weight for term in objective.terms.values()))
    return leaves if len(leaves) > 1 else ()


def utilization(s: Setup) -> Callable[[float], float | None]:
    """tokens per second -> MFU of this run's mesh, or None for chips we know no peak of, and where
    parameters of a family are frozen that models/trained_count.py does not count."""
    flops = trained_flops_per_token(
        s.experiment.model,
        s.experiment.length,
        trained={name: x.shape for name, x in flat(s.abstract["params"]).items()},
        frozen={name: x.shape for name, x in flat(s.abstract.get("frozen", {})).items()},
    )
    if flops is None:
        return lambda rate: None
    devices = list(s.mesh.devices.flat)
    return lambda rate: model_flops_utilization(flops, rate, devices)
