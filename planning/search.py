"""Which mesh, remat, microbatches: every combination estimated, the best compiled, and why."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from gesso.partitioning.config import MeshConfig
from gesso.planning.plan import estimate
from gesso.planning.topology import Topology
from gesso.pretrain.experiment import Experiment, ExperimentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run an experiment, and what `estimate` says of it."""

    experiment: Experiment
    estimate: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.estimate["time"]["middle"]

    @property
    def name(self) -> str:
        """As options of the command line."""
        e = self.experiment
        axes = [f"--mesh.{axis} {n}" for axis, n in self.estimate["mesh"].items()]
        remat = [f"--model.remat {remat_of(e)}"] if remat_of(e) else []
        return " ".join([*axes, f"--layout {e.layout}", *remat, f"--microbatches {e.microbatches}"])


def search(experiment: Experiment, where: Topology) -> tuple[list[Candidate], int]:
    """(the candidates that fit, fastest first; how many there were in all).

    Tried: every mesh over data, fsdp and tensor (up to 16 ways; replica = the slices), every remat
    policy the model has, microbatches of 1 to 16. The batch, the model and what is learned stay as
    they are.
    """
    tried, kept = 0, []
    for each in candidates(experiment, where):
        try:
            found = estimate(each, where)
        except ExperimentError:
            continue
        tried += 1
        if found["fits"]:
            kept.append(Candidate(experiment=each, estimate=found))
    # Of equals the simpler: fewer microbatches, less tensor, less recomputation.
    return sorted(kept, key=lambda c: (round(c.seconds, 6), c.experiment.microbatches)), tried


def candidates(experiment: Experiment, where: Topology) -> Iterator[Experiment]:
    """Every way to lay out the experiment, those that cannot be included."""
    inside = where.devices // where.slices
    remats = _remats(experiment)
    for tensor in (1, 2, 4, 8, 16):
        if inside % tensor:
            continue
        for fsdp in _divisors(inside // tensor):
            data = inside // tensor // fsdp
            split = [name for name, n in (("fsdp", fsdp), ("tensor", tensor)) if n > 1]
            layouts = ["_".join(split) or "replicated"]
            layouts += ["fsdp_optimizer"] if split == ["fsdp"] else []
            mesh = MeshConfig(replica=where.slices, data=data, fsdp=fsdp, tensor=tensor)
            for layout, remat, microbatches in itertools.product(layouts, remats, (1, 2, 4, 8, 16)):
                model = dataclasses.replace(experiment.model, **remat)
                yield dataclasses.replace(
                    experiment,
                    mesh=mesh,
                    layout=layout,
                    model=model,
                    microbatches=microbatches,
                )


def why(best: Candidate, others: list[Candidate]) -> list[str]:
    """In sentences: what bounds the best, and what the nearest of another kind would cost."""
    time = best.estimate["time"]
    told = [
        f"bound by {time['bound']}: matrix {time['matrix'] * 1e3:.0f} ms, memory"
        f" {time['memory'] * 1e3:.0f} ms, links {time['links'] * 1e3:.0f} ms"
        + (f", network {time['network'] * 1e3:.0f} ms" if time["network"] else "")
    ]
    for what in ("tensor", "fsdp", "data"):
        ways = best.estimate["mesh"].get(what, 1)
        other = next((c for c in others if c.estimate["mesh"].get(what, 1) != ways), None)
        if other is not None:
            slower = other.seconds / best.seconds
            told.append(
                f"{what} {other.estimate['mesh'].get(what, 1)} instead of {ways}: {slower:.2f}x the"
                f" time ({other.name})"
            )
    remat = remat_of(best.experiment)
    other = next((c for c in others if remat_of(c.experiment) != remat), None)
    if other is not None:
        told.append(
            f"remat {remat_of(other.experiment)} instead of {remat}:"
            f" {other.seconds / best.seconds:.2f}x the time,"
            f" {other.estimate['memory']['total'] / best.estimate['memory']['total']:.2f}x the"
            " memory"
        )
    return told


def remat_of(experiment: Experiment) -> str:
    """The model's remat policy; empty for a family that has none."""
    own = {each.name for each in dataclasses.fields(experiment.model)}
    return experiment.model.remat if "remat" in own else ""


def _remats(experiment: Experiment) -> list[dict[str, Any]]:
    if not remat_of(experiment):
        return [{}]
    return [{"remat": name} for name in get_args(get_type_hints(type(experiment.model))["remat"])]


def _divisors(n: int) -> list[int]:
    small = [i for i in range(1, math.isqrt(n) + 1) if n % i == 0]
    return sorted({*small, *(n // i for i in small)})
