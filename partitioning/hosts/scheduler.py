"""What a scheduler's environment says about the processes of a run. Pure functions, no JAX.

jax.distributed detects clusters too (jax 0.10: Cloud TPU, Kubernetes, SLURM, MPI). What it lacks:
- Processes meet in hosts/coordination.py before JAX starts, to compare versions and experiments, so
  the coordinator's address is needed outside of jax.distributed.initialize.
- On Kubernetes it asks the cluster's API: a package and a role of the service account. A JobSet's
  own variables say the same without either.
- Where variables are missing it tries the next kind, and may end as a single process; here the
  missing variable is named.
- A SLURM task with a local number gets one device there, also where it is alone on its node and
  should have all cards.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PORT = 8470  # the default coordinator port; JAX's own coordination service gets the next one

Name = Literal["single", "env", "slurm", "jobset", "tpu"]


class SchedulerError(ValueError):
    """An environment that is incomplete or contradicts itself."""


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """process: this one's number, 0 to count - 1. coordinator: "host:port" of process 0, "" for a
    single process. local_devices: which of the visible devices are this process's; None = all."""

    name: Name
    process: int = 0
    count: int = 1
    coordinator: str = ""
    local_devices: tuple[int, ...] | None = None


def detect(environ: Mapping[str, str], *, name: str = "auto") -> Scheduler:
    """The processes of the run this environment belongs to.

    name: "auto" takes the first of env, jobset, tpu, slurm whose variables are set, else a single
    process; another name insists. Raises SchedulerError when variables are missing or make no
    sense.
    """
    if name == "auto":
        name = next((each for each, variable in _SIGNS.items() if variable in environ), "single")
        if name == "tpu" and "," not in environ["TPU_WORKER_HOSTNAMES"]:
            name = "tpu" if _slices(environ) > 1 else "single"
        if name == "slurm" and environ.get("SLURM_STEP_NODELIST") is None:
            name = "single"  # an allocation's own shell, not a task started by srun
    if name == "single":
        return Scheduler(name="single")
    found = _READERS[name](environ)
    if not 0 <= found.process < found.count:
        raise SchedulerError(
            f"{name}: process {found.process} of {found.count} makes no sense; processes count"
            " from 0"
        )
    return found


def expand_nodes(nodes: str) -> list[str]:
    """SLURM's short form of a node list, expanded: "a[01-03,7],b" -> a01 a02 a03 a7 b."""
    found: list[str] = []
    for item in re.findall(r"[^,\[]+(?:\[[^\]]*\][^,\[]*)*", nodes):
        found += _expand(item)
    return found


def _expand(item: str) -> list[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", item)
    if not match:
        return [item]
    before, ranges, after = match.groups()
    numbers: list[str] = []
    for each in ranges.split(","):
        first, _, last = each.partition("-")
        width = len(first)
        numbers += [f"{n:0{width}d}" for n in range(int(first), int(last or first) + 1)]
    return [before + number + rest for number in numbers for rest in _expand(after)]


def _env(environ: Mapping[str, str]) -> Scheduler:
    return Scheduler(
        name="env",
        process=_number(environ, "GESSO_PROCESS"),
        count=_number(environ, "GESSO_PROCESSES"),
        coordinator=_with_port(_value(environ, "GESSO_COORDINATOR")),
    )


def _slurm(environ: Mapping[str, str]) -> Scheduler:
    """One process per task of the job step. The port comes from the job's number, so that jobs that
    share a node do not meet."""
    nodes = expand_nodes(_value(environ, "SLURM_STEP_NODELIST"))
    job = _number(environ, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environ else 0
    port = 20000 + 2 * (job % 5000)
    count = _number(environ, "SLURM_NTASKS")
    return Scheduler(
        name="slurm",
        process=_number(environ, "SLURM_PROCID"),
        count=count,
        coordinator=f"{nodes[0]}:{port}" if count > 1 else "",
        local_devices=_slurm_devices(environ, several=count > len(nodes)),
    )


def _slurm_devices(environ: Mapping[str, str], *, several: bool) -> tuple[int, ...] | None:
    """Tasks that share a node and see the same cards take one each, by their number on the node."""
    cards = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if several and len(cards) > 1 and "SLURM_LOCALID" in environ:
        return (_number(environ, "SLURM_LOCALID"),)
    return None


def _jobset(environ: Mapping[str, str]) -> Scheduler:
    """Pods of a Kubernetes JobSet: an indexed Job of PARALLELISM pods, REPLICAS times.

    The JobSet controller and the Job give JOBSET_NAME, REPLICATED_JOB_NAME, JOB_INDEX (as an
    environment variable from the label of that name) and JOB_COMPLETION_INDEX; the manifest says
    GESSO_PODS_PER_JOB and GESSO_JOBS (1 if absent), or GESSO_PROCESSES in all.
    """
    job = _number(environ, "JOB_INDEX") if "JOB_INDEX" in environ else 0
    index = _number(environ, "JOB_COMPLETION_INDEX")
    jobs = _number(environ, "GESSO_JOBS") if "GESSO_JOBS" in environ else 1
    if "GESSO_PODS_PER_JOB" in environ:
        pods = _number(environ, "GESSO_PODS_PER_JOB")
    else:
        total = _number(environ, "GESSO_PROCESSES")
        if total % jobs:
            raise SchedulerError(f"GESSO_PROCESSES={total} does not divide over GESSO_JOBS={jobs}")
        pods = total // jobs
    name, replicated = _value(environ, "JOBSET_NAME"), _value(environ, "REPLICATED_JOB_NAME")
    # the host name of a pod of a JobSet: JOBSET-REPLICATEDJOB-JOBINDEX-PODINDEX.SUBDOMAIN
    host = f"{name}-{replicated}-0-0.{environ.get('JOBSET_SUBDOMAIN', name)}"
    coordinator = environ.get("GESSO_COORDINATOR", host)
    return Scheduler(
        name="jobset",
        process=job * pods + index,
        count=jobs * pods,
        coordinator=_with_port(coordinator),
    )


def _tpu(environ: Mapping[str, str]) -> Scheduler:
    """Workers of a TPU slice, and of several slices joined over the data-centre network."""
    workers = _value(environ, "TPU_WORKER_HOSTNAMES").split(",")
    slices = _slices(environ)
    slice_number = _number(environ, "MEGASCALE_SLICE_ID") if slices > 1 else 0
    first = workers[0]
    if slices > 1:
        first = _value(environ, "MEGASCALE_COORDINATOR_ADDRESS").rsplit(":", 1)[0]
    return Scheduler(
        name="tpu",
        process=slice_number * len(workers) + _number(environ, "TPU_WORKER_ID"),
        count=slices * len(workers),
        coordinator=f"{first}:{PORT}",
    )


def _slices(environ: Mapping[str, str]) -> int:
    return _number(environ, "MEGASCALE_NUM_SLICES") if "MEGASCALE_NUM_SLICES" in environ else 1


def _value(environ: Mapping[str, str], variable: str) -> str:
    if not environ.get(variable):
        raise SchedulerError(f"{variable} is not set; it is needed beside the others of its kind")
    return environ[variable]


def _number(environ: Mapping[str, str], variable: str) -> int:
    value = _value(environ, variable)
    if not re.fullmatch(r"\d+", value):
        raise SchedulerError(f"{variable}={value!r} is not a number")
    return int(value)


def _with_port(address: str) -> str:
    return address if re.search(r":\d+$", address) else f"{address}:{PORT}"


_SIGNS = {
    "env": "GESSO_PROCESSES",
    "jobset": "JOBSET_NAME",
    "tpu": "TPU_WORKER_HOSTNAMES",
    "slurm": "SLURM_PROCID",
}
_READERS = {"env": _env, "jobset": _jobset, "tpu": _tpu, "slurm": _slurm}
