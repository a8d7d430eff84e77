"""Will it fit, how fast will it be, and what bounds it: the real step, planned before any chip.

Exact: bytes of parameters, optimizer state and batch per device (their shardings say them), and,
where the step is compiled, the compiler's own temporaries and collectives. A model: times, which
divide FLOPs and bytes by published peaks.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from gesso.models.count import flops_per_token, parameters
from gesso.models.trained_count import adapter_shapes, trained_flops_per_token
from gesso.partitioning.config import OPTIMIZER_OVER, PARAMETERS_OVER
from gesso.planning.depth import SHALLOW, can_be_cut, cut, extrapolate, turns_of
from gesso.planning.time import BYTES, step_time
from gesso.planning.topology import Topology, describe
from gesso.pretrain.checks import validate
from gesso.pretrain.config import MOMENTS
from gesso.pretrain.experiment import Experiment, ExperimentError, to_json

PLAN_VERSION = 1
SEPARATOR = 6  # what a planned experiment's tokenizer makes of any text


def plan(
    experiment: Experiment,
    where: Topology,
    *,
    depth: Literal["whole", "extrapolated"] = "whole",
) -> dict[str, Any]:
    """The plan of a run on a topology, compiled for it, as JSON: "memory", "program",
    "collectives", "time", "fits". Before JAX is used elsewhere in the process. depth: compile the
    whole model, or two shallow ones (planning/depth.py): not exact then.

    Raises ExperimentError where the experiment cannot be laid out on it, ValueError for a topology
    that no compiler here knows.
    """
    import jax

    check(experiment, where)
    devices = describe(where)
    began = time.perf_counter()
    laid_out = lay_out(experiment, devices)
    traced = laid_out.trace()
    executed, fused = _execution(experiment, traced, devices)
    found = _head(experiment, where, laid_out.mesh.shape) | {
        "jax": jax.__version__,
        "memory": laid_out.exact_bytes(),
        "program": _program(experiment, executed, laid_out.flops_per_token())
        | {"kernel_flops": fused},
        "seconds": {"trace": round(time.perf_counter() - began, 1)},
    }
    began = time.perf_counter()
    if depth == "extrapolated" and can_be_cut(experiment):
        ends = [lay_out(cut(experiment, turns=n), devices) for n in SHALLOW]
        made = [_compile(each.trace(), each.mesh.shape, {}) for each in ends]
        line = extrapolate(*made, turns=turns_of(experiment))
        line["memory"] = found["memory"] | line.get("memory", {}) | {"extrapolated": True}
        found |= line
    else:
        found |= _compile(traced, laid_out.mesh.shape, found["memory"])
    found["seconds"]["compile"] = round(time.perf_counter() - began, 1)
    return found | step_time(experiment, where, found)


def estimate(experiment: Experiment, where: Topology) -> dict[str, Any]:
    """As `plan`, from formulas alone: no JAX, no compiler, milliseconds. "exact" is False."""
    check(experiment, where)
    e, sizes = experiment, experiment.mesh.sizes(where.devices)
    found = _head(experiment, where, sizes)
    program = _program(experiment, 0.0, plan_flops(experiment))
    # What remat computes again of one forward pass, which is a third of training everything.
    again = {
        "full": 1 / 3,
        "save_attention": 0.3,
        "dots": 0.05,
        "save_qkv_attention_mlp": 0.03,
    }.get(e.model.remat, 0.0)
    forward_and_back = flops_per_token(e.model, e.length) * program["tokens_per_step"]
    program["executed_flops"] = program["model_flops"] + again * forward_and_back
    whole = program["parameters"]["total"] * BYTES[e.precision.params]
    parameters, of_each_moment = (
        math.ceil(whole / math.prod(sizes[axis] for axis in over[e.layout]))
        for over in (PARAMETERS_OVER, OPTIMIZER_OVER)
    )
    rows = sizes["replica"] * sizes["data"] * sizes["fsdp"]
    adapted = e.adapter.kind != "none"  # an adapter is next to nothing
    memory = {
        "parameters": parameters,
        "trained": 0 if adapted else parameters,
        "optimizer": 0 if adapted else MOMENTS[e.optimizer.name] * of_each_moment,
        "other_state": 4,
        "batch": math.ceil(20 * e.batch * e.length / rows / sizes["sequence"]),
    }
    found |= {"program": program, "memory": memory}
    return found | step_time(experiment, where, found)


def check(experiment: Experiment, where: Topology) -> None:
    """Raises ExperimentError where the experiment cannot be laid out on the topology."""
    validate(experiment, devices=where.devices)
    if experiment.mesh.sizes(where.devices)["replica"] % where.slices:
        raise ExperimentError(
            f"{where.slices} slices and mesh axis replica={experiment.mesh.replica}: what every"
            f" layer gathers would cross the data-centre network; use --mesh.replica {where.slices}"
        )


def _head(experiment: Experiment, where: Topology, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "version": PLAN_VERSION,
        "experiment": to_json(experiment),
        "topology": {
            "name": where.name,
            "slices": where.slices,
            "devices": where.devices,
            "chips": where.chips,
            "chip": dataclasses.asdict(where.chip) if where.chip else None,
        },
        "mesh": {axis: n for axis, n in sizes.items() if n > 1},
    }


def plan_flops(e: Experiment) -> float:
    """Training FLOPs per token from formulas alone. Of what `trainable` freezes the gradients are
    counted, as everything; of a model under an adapter they are not."""
    whole = flops_per_token(e.model, e.length)
    if e.adapter.kind == "none" or e.trainable:
        return whole
    shapes = adapter_shapes(e.model, e.adapter)
    if shapes is None:
        return whole
    trained, frozen = shapes
    return trained_flops_per_token(e.model, e.length, trained=trained, frozen=frozen) or whole


def _execution(e: Experiment, traced: Any, devices: Any) -> tuple[float, float]:
    """(FLOPs that the step executes, those of them in attention kernels, which are taken to do what
    `blocks` does)."""
    from gesso.planning.program_flops import count_flops

    executed = count_flops(traced.jaxpr)
    if e.model.attention != "splash":
        return executed, 0.0
    plain = dataclasses.replace(e, model=dataclasses.replace(e.model, attention="blocks"))
    whole = count_flops(lay_out(plain, devices).trace().jaxpr)
    return whole, whole - executed


def _program(e: Experiment, executed: float, flops: float) -> dict[str, Any]:
    """FLOPs of one update over the whole mesh: the formula's, and those that are executed."""
    return {
        "parameters": parameters(e.model),
        "tokens_per_step": e.batch * e.length,
        "model_flops": flops * e.batch * e.length,
        "executed_flops": executed,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaidOut:
    """An experiment's step as a traceable program for a mesh of any devices."""

    experiment: Experiment
    mesh: Any
    layout: Any
    model: Any
    objective: Any
    step: Any
    state: Any
    batch: Any

    def trace(self) -> Any:
        """The step traced for its mesh: `.jaxpr`, and `.lower()` for its devices."""
        from gesso.pretrain.step import trace_step

        return trace_step(self.step, self.state, self.batch, mesh=self.mesh, layout=self.layout)

    def flops_per_token(self) -> float:
        """Training FLOPs per token, of what is trained (models/trained_count.py; of a family that
        it does not count, of everything)."""
        from gesso.models.trees import flat

        e = self.experiment
        trained, frozen = (
            {name: x.shape for name, x in flat(self.state.get(tree, {})).items()}
            for tree in ("params", "frozen")
        )
        counted = trained_flops_per_token(e.model, e.length, trained=trained, frozen=frozen)
        return flops_per_token(e.model, e.length) if counted is None else counted

    def exact_bytes(self) -> dict[str, int]:
        """Bytes per device by class: what shardings say, to the byte. "trained" is a part of
        "parameters"."""
        return {
            "parameters": _local_bytes([self.state["params"], self.state.get("frozen", {})]),
            "trained": _local_bytes(self.state["params"]),
            "optimizer": _local_bytes(self.state["opt_state"]),
            "other_state": _local_bytes(
                {k: v for k, v in self.state.items() if k not in ("params", "frozen", "opt_state")}
            ),
            "batch": _local_bytes(self.batch),
        }


def lay_out(experiment: Experiment, devices: list[Any]) -> LaidOut:
    """The step of an experiment over `devices`; nothing is computed and no data is read."""
    from gesso.models import build
    from gesso.objectives.kinds import build as build_objective
    from gesso.partitioning.layouts import LAYOUTS
    from gesso.partitioning.mesh import make_mesh
    from gesso.pretrain.batch import abstract_batch
    from gesso.pretrain.setup import parts_and_optimizer, step_settings
    from gesso.pretrain.state import abstract_state
    from gesso.pretrain.step import make_train_step

    e = experiment
    mesh, layout, model = make_mesh(e.mesh, devices=devices), LAYOUTS[e.layout], build(e.model)
    objective = build_objective(e.objective, tokenizer=any_tokenizer(e.model), model=e.model)
    parts, optimizer = parts_and_optimizer(e, model, range(e.steps))
    state = abstract_state(
        model,
        optimizer,
        mesh=mesh,
        layout=layout,
        dtype=e.precision.params,
        carry=objective.carry,
        rows=e.batch,
        parts=parts,
    )
    step = make_train_step(model, objective, optimizer, step_settings(e, components=22), parts)
    batch = abstract_batch(objective, rows=e.batch, length=e.length, mesh=mesh)
    return LaidOut(
        experiment=e,
        mesh=mesh,
        layout=layout,
        model=model,
        objective=objective,
        step=step,
        state=state,
        batch=batch,
    )


def cache_key(experiment: Experiment, where: Topology) -> str:
    """A hash of all that decides a plan: experiment, topology, versions, the code of the step."""
    from importlib.metadata import version

    import jax

    root = Path(__file__).parents[1]
    code = hashlib.sha256()
    for folder in ("models", "objectives", "partitioning", "pretrain"):
        for path in sorted((root / folder).rglob("*.py")):
            code.update(path.read_bytes())
    try:
        compiler = version("libtpu")
    except ImportError:
        compiler = ""
    told = [to_json(experiment), where.name, where.slices, jax.__version__, compiler]
    return hashlib.sha256(
        (json.dumps(told, sort_keys=True) + code.hexdigest()).encode()
    ).hexdigest()


def _compile(traced: Any, mesh: Mapping[str, int], exact: dict[str, int]) -> dict[str, Any]:
    import jax

    from gesso.planning.hlo import collectives

    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": " ".join(str(error).split())[:400], "fits": False}
    memory = compiled.memory_analysis()
    used = {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "new_outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    sent, cycles = collectives(compiled.as_text() or "", mesh)
    return {
        "memory": exact | {"compiled": used},
        "collectives": [dataclasses.asdict(each) for each in sent],
        "estimated_cycles": cycles,
    }


def _local_bytes(tree: Any) -> int:
    import jax

    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def any_tokenizer(model: Any) -> Any:
    """What an objective asks of a tokenizer, with ids that leave room for sentinels; every text is
    the one id SEPARATOR. A plan needs shapes, not words."""
    import numpy as np

    size = max(8, model.sizes["V"] - 128)
    return SimpleNamespace(
        kind="any",
        vocab_size=size,
        eos=5,
        special={"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4},
        continues=np.zeros(size, bool),
        byte_lengths=np.ones(size, np.int32),
        spelling=np.zeros((size, model.sizes.get("C", 50)), np.uint16),
        classes=size,
        encode=lambda text: [SEPARATOR],
    )
