"""Does the real training step fit a TPU pod? Compiled ahead of time on a machine without a TPU.

    pip install 'jax[tpu]==0.10.2' flax==0.12.8 optax numpy     (an environment of its own)
    python -m benchmarks.aot_tpu [--cases 'gpt-j-6b/v5e*'] [--output benchmarks/results/tpu.json]

Compiles `gesso.pretrain.step` of a published experiment for every device of a topology, with
libtpu's own compiler, in one process per case. What does not fit is refused by it as it would be on
the pod.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.page import table, write_section

HBM_GIB = {"v5e": 15.75, "v5p": 95.74, "v6e": 31.25}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program to compile. `rows`: rows of the batch per device; `overrides` as on the command
    line."""

    experiment: str
    topology: str
    layout: str
    mesh: dict[str, int]
    rows: float = 1
    overrides: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        axes = "x".join(f"{axis}{n}" for axis, n in self.mesh.items())
        note = f"/{self.note}" if self.note else ""
        return f"{self.experiment}/{self.topology}/{self.layout}/{axes}{note}"


# GPT-2's 50257 ids do not split over a tensor axis; 50304 is the next multiple of 128.
PADDED = {"model.vocab": 50304}
CASES = (
    Case(experiment="gpt-j-6b", topology="v5e:16x16", layout="fsdp", mesh={"fsdp": 256}),
    Case(
        experiment="gpt-j-6b",
        topology="v5e:16x16",
        layout="fsdp_tensor",
        mesh={"fsdp": 64, "tensor": 4},
    ),
    Case(experiment="gpt-j-6b", topology="v5p:4x4x4", layout="fsdp", mesh={"fsdp": 64}, rows=4),
    Case(
        experiment="gpt-j-6b",
        topology="v5p:4x4x4",
        layout="fsdp",
        mesh={"data": 4, "fsdp": 16},
        rows=4,
    ),
    Case(
        experiment="gpt-j-6b",
        topology="v5p:4x4x4",
        layout="fsdp_tensor",
        mesh={"fsdp": 16, "tensor": 4},
        rows=4,
    ),
    Case(
        experiment="gpt-j-6b",
        topology="v5e:16x16",
        layout="fsdp",
        mesh={"fsdp": 256},
        overrides={"objective.chunk_tokens": 0},
        note="all logits at once",
    ),
    Case(experiment="gpt-neo-1.3b", topology="v5e:16x16", layout="fsdp", mesh={"fsdp": 256}),
    Case(
        experiment="gpt-neo-1.3b",
        topology="v5e:16x16",
        layout="fsdp_tensor",
        mesh={"fsdp": 64, "tensor": 4},
        overrides=PADDED,
    ),
    Case(experiment="gpt-neo-1.3b", topology="v5p:4x4x4", layout="fsdp", mesh={"fsdp": 64}, rows=8),
    Case(
        experiment="gpt-neo-1.3b",
        topology="v5p:4x4x4",
        layout="fsdp_tensor",
        mesh={"fsdp": 16, "tensor": 4},
        rows=8,
        overrides=PADDED,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="*", help="pattern over the names --list prints")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--output", default="benchmarks/results/tpu.json")
    parser.add_argument("--page", default="docs/performance.md")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds per case")
    parser.add_argument("--text", default="", help="folder to keep the compiled programs in")
    parser.add_argument("--one", default="", help="compile this case here, print its JSON")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(case.name for case in CASES))
    elif asked.one:
        case = next(c for c in CASES if c.name == asked.one)
        print(json.dumps(compile_case(case, asked.text)))
    else:
        run([c for c in CASES if fnmatch.fnmatch(c.name, asked.cases)], asked)


def run(cases: list[Case], asked: Any) -> None:
    """Every case in its own process; results of earlier runs of other cases are kept."""
    output = Path(asked.output)
    found = json.loads(output.read_text()) if output.exists() else {}
    for case in cases:
        print(f"compiling {case.name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.aot_tpu", "--one", case.name]
        command += ["--text", asked.text]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=asked.timeout)
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                found[case.name] = json.loads(lines[-1])
            else:
                found[case.name] = {"failed": done.stderr.strip()[-600:]}
        except subprocess.TimeoutExpired:
            found[case.name] = {"failed": f"still compiling after {asked.timeout:.0f} s"}
        print(json.dumps(found[case.name])[:400], file=sys.stderr, flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n")
    write_section(Path(asked.page), "tpu", markdown(found))


def compile_case(case: Case, text_folder: str) -> dict[str, Any]:
    """Figures of one case: {"fits", "gib": {...}, "seconds": {...}, "collectives": [...]}."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    import jax
    from jax.experimental import topologies

    from gesso.configs.registry import experiment as named
    from gesso.models.count import parameters
    from gesso.partitioning.mesh import make_mesh
    from gesso.planning.hlo import collectives

    topology = topologies.get_topology_desc(platform="tpu", topology_name=case.topology)
    devices = topology.devices
    batch = int(case.rows * len(devices))
    mesh_sizes = {f"mesh.{axis}": 1 for axis in ("replica", "data", "fsdp", "sequence", "tensor")}
    mesh_sizes |= {f"mesh.{axis}": n for axis, n in case.mesh.items()}
    overrides = {"batch": batch, "microbatches": 1, "layout": case.layout, **mesh_sizes}
    e = named(case.experiment, overrides | case.overrides)
    mesh = make_mesh(e.mesh, devices=devices)
    seconds: dict[str, float] = {}

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        kind = event.rsplit("/", 1)[-1].removesuffix("_duration").removesuffix("_duration_sec")
        seconds[kind] = seconds.get(kind, 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    figures: dict[str, Any] = {
        "case": asdict(case),
        "devices": len(devices),
        "batch": batch,
        "length": e.length,
        "parameters": parameters(e.model)["total"],
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "libtpu": _libtpu(),
    }
    start, spent = time.perf_counter(), time.process_time()
    try:
        compiled = _compile(e, mesh)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        figures |= {"fits": False, "refused": str(error)[:500]}
        figures["seconds"] = {"all": round(time.perf_counter() - start, 1)}
        return figures
    figures["seconds"] = {"all": round(time.perf_counter() - start, 1)}
    figures["seconds"] |= {
        "trace": round(seconds.get("jaxpr_trace", 0.0), 1),
        "compile": round(seconds.get("backend_compile", 0.0), 1),
        "cpu": round(time.process_time() - spent, 1),
    }
    memory, gib = compiled.memory_analysis(), 2.0**30
    arguments, temporary = memory.argument_size_in_bytes / gib, memory.temp_size_in_bytes / gib
    fresh = (memory.output_size_in_bytes - memory.alias_size_in_bytes) / gib
    total = arguments + temporary + fresh
    limit = HBM_GIB[case.topology.split(":")[0]]
    figures["gib"] = {
        "state_and_batch": round(arguments, 3),
        "temporary": round(temporary, 3),
        "new_outputs": round(fresh, 3),
        "total": round(total, 3),
        "limit": limit,
    }
    figures["fits"] = total <= limit
    text = compiled.as_text()
    if text_folder:
        Path(text_folder).mkdir(parents=True, exist_ok=True)
        (Path(text_folder) / f"{case.name.replace('/', '_')}.txt").write_text(text)
    found, cycles = collectives(text)
    figures["collectives"] = [asdict(each) for each in found]
    figures["estimated_cycles"] = cycles
    return figures


def _compile(e: Any, mesh: Any) -> Any:
    from gesso.models import build
    from gesso.objectives.kinds import build as build_objective
    from gesso.partitioning.layouts import LAYOUTS
    from gesso.pretrain.batch import abstract_batch
    from gesso.pretrain.optimizer.optimizer import make_optimizer
    from gesso.pretrain.optimizer.schedule import make_schedule
    from gesso.pretrain.state import abstract_state
    from gesso.pretrain.step import StepSettings, compile_step, make_train_step

    model, layout = build(e.model), LAYOUTS[e.layout]
    optimizer = make_optimizer(e.optimizer, model.letters, steps=e.steps)
    state = abstract_state(model, optimizer, mesh=mesh, layout=layout, dtype=e.precision.params)
    schedule = make_schedule(e.optimizer.schedule, steps=e.steps)
    settings = StepSettings(
        compute=e.precision.compute,
        microbatches=e.microbatches,
        clip_norm=e.optimizer.clip_norm,
        components=22,
        learning_rate=lambda t: e.optimizer.learning_rate * schedule(t),
    )
    objective = build_objective(e.objective)
    step = make_train_step(model, objective, optimizer, settings)
    batch = abstract_batch(objective, rows=e.batch, length=e.length, mesh=mesh)
    return compile_step(step, state, batch, mesh=mesh, layout=layout)


def _libtpu() -> str:
    from importlib.metadata import version

    return version("libtpu")


def markdown(found: dict[str, Any]) -> str:
    """The table of docs/performance.md."""
    rows = []
    for name, each in found.items():
        if "gib" not in each:
            told = each.get("refused") or each.get("failed", "")
            rows.append([name, "NO", "", "", " ".join(told.split())[-160:], "", ""])
            continue
        gib = each["gib"]
        sent = {}
        for one in each["collectives"]:
            spelled = f"{one['kind']} x{one['group']}"
            sent[spelled] = sent.get(spelled, 0.0) + one["wire_bytes"] / 1e9
        hidden = sum(c["wire_bytes"] for c in each["collectives"] if c["asynchronous"])
        total = sum(c["wire_bytes"] for c in each["collectives"]) or 1.0
        rows.append(
            [
                name,
                "yes" if each["fits"] else "NO",
                f"{gib['state_and_batch']:.2f} + {gib['temporary']:.2f}",
                f"{gib['total'] / gib['limit']:.0%} of {gib['limit']}",
                ", ".join(f"{kind} {size:.1f}" for kind, size in sent.items() if size >= 0.05),
                f"{hidden / total:.0%}",
                f"{each['seconds']['trace']:.0f} + {each['seconds']['compile']:.0f}",
            ]
        )
    head = [
        "experiment / topology / layout / mesh",
        "fits",
        "state + temporary, GiB per device",
        "of its memory",
        "sent per device and step, GB",
        "asynchronous",
        "trace + compile, s",
    ]
    dates = sorted({each["date"] for each in found.values() if "date" in each})
    versions = sorted(
        {f"jax {e['jax']}, libtpu {e['libtpu']}" for e in found.values() if "jax" in e}
    )
    return (
        f"Command: `python -m benchmarks.aot_tpu`; {', '.join(dates)}; {'; '.join(versions)}."
        " One row of the batch per device on v5e, 4 (gpt-j-6b) or 8 on v5p; float32 parameters and"
        " Adam, bfloat16 compute. Read out of the compiled program; nothing ran on a TPU.\n\n"
        + table(head, rows)
    )


if __name__ == "__main__":
    main()
