"""One shape of our training step, timed on one device; with "trace", profiled instead.

The step is the one of a real run: pretrain.step compiled by compile_step, float32 parameters and
optimizer state, bfloat16 compute.
"""

import gzip
import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_shapes import experiment_of, rows
from benchmarks.record import Record, job, timed
from gesso.models import build
from gesso.models.count import flops_per_token, parameters
from gesso.objectives.causal import CausalLM
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.machines.chips import peak_flops
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.optimizer.schedule import make_schedule
from gesso.pretrain.state import abstract_state, init_state
from gesso.pretrain.step import StepSettings, compile_step, make_train_step


class OneDocumentPerRow(CausalLM):
    """Next-token prediction that does not tell attention about segments: no mask but causality."""

    def __call__(self, module: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        seen = {name: leaf for name, leaf in batch.items() if name != "segments"}
        return super().__call__(module, seen, key)


def main() -> None:
    spec, record = job()
    device = jax.devices()[0]
    record.add({"device": device.device_kind, "jax": jax.__version__})
    if spec["device"] == "gpu" and device.platform != "gpu":
        raise SystemExit(f"jax sees no GPU here, only {jax.devices()}")
    e = experiment_of(spec)
    mesh, layout = make_mesh(MeshConfig(), devices=[device]), LAYOUTS["replicated"]
    model = build(e.model)
    objective = (CausalLM if spec["rows"] == "packed" else OneDocumentPerRow)(e.objective)
    optimizer = make_optimizer(e.optimizer, model.letters, steps=e.steps)
    schedule = make_schedule(e.optimizer.schedule, steps=e.steps)
    settings = StepSettings(
        compute=e.precision.compute,
        clip_norm=e.optimizer.clip_norm,
        learning_rate=lambda t: e.optimizer.learning_rate * schedule(t),
    )
    host = objective.host_batch(rows(e, spec["rows"], overlap=objective.overlap))
    host |= {"row_crc": np.zeros(e.batch, np.uint32)}
    batch = {
        name: jax.device_put(leaf, batch_sharding(mesh, "BL"[: leaf.ndim]))
        for name, leaf in host.items()
    }
    seconds: dict[str, float] = {}

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if "backend_compile" in event:
            seconds["compile"] = seconds.get("compile", 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    compiled = compile_step(
        make_train_step(model, objective, optimizer, settings),
        abstract_state(model, optimizer, mesh=mesh, layout=layout),
        batch,
        mesh=mesh,
        layout=layout,
    )
    memory: Any = compiled.memory_analysis()
    record.add(
        {
            "parameters": parameters(e.model)["total"],
            "tokens_per_step": e.batch * e.length,
            "loss_tokens": int((host["lm_weight"] > 0).sum()),
            "compile_seconds": round(seconds.get("compile", 0.0), 2),
            "planned_gib": round(
                (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30, 2
            ),
        }
    )
    state = init_state(model, optimizer, seed=0, mesh=mesh, layout=layout)
    run = _Run(compiled, state, batch)
    if spec.get("trace"):
        trace(run, record)
    else:
        measure(run, record, e, device)


class _Run:
    """Calls the step, each time on what the call before left: donated buffers are used once."""

    def __init__(self, compiled: Any, state: Any, batch: Any):
        self.compiled, self.state, self.batch = compiled, state, batch

    def __call__(self) -> Any:
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics


def measure(run: _Run, record: Record, e: Any, device: Any) -> None:
    first = float(run()["loss"])
    record.add({"first_loss": round(first, 4)})
    timing = timed(run, jax.block_until_ready)
    rate = e.batch * e.length / timing.median
    peak = peak_flops(device)
    flops = flops_per_token(e.model, e.length)
    stats = device.memory_stats() or {}
    last = float(run()["loss"])
    record.add(
        {
            "seconds_per_step": timing.median,
            "timing": asdict(timing),
            "tokens_per_second": round(rate, 1),
            "flops_per_token": flops,
            "mfu": None if peak is None else round(flops * rate / peak, 4),
            "peak_gib": round(stats["peak_bytes_in_use"] / 2**30, 2) if stats else None,
            "last_loss": round(last, 4),
            "finite": math.isfinite(first) and math.isfinite(last),
        }
    )


def trace(run: _Run, record: Record) -> None:
    """Profile one step after warm-up; the costliest device operations go into the record."""
    folder = record.path.with_suffix("")
    for _ in range(3):
        jax.block_until_ready(run())
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        jax.block_until_ready(run())
    record.add({"trace": str(folder)})
    record.add({"operations": costliest(folder)})


def costliest(folder: Path, *, keep: int = 15) -> list[dict[str, Any]]:
    """[{"name", "milliseconds", "count"}] of the traced device operations, the costliest first."""
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for path in folder.rglob("*.trace.json.gz"):
        with gzip.open(path, "rt") as file:
            events = json.load(file).get("traceEvents", [])
        names = {
            each["pid"]: each["args"].get("name", "")
            for each in events
            if each.get("ph") == "M" and each.get("name") == "process_name"
        }
        threads = {
            (each["pid"], each["tid"]): each["args"].get("name", "")
            for each in events
            if each.get("ph") == "M" and each.get("name") == "thread_name"
        }
        for each in events:
            where = names.get(each.get("pid"), "")
            thread = threads.get((each.get("pid"), each.get("tid")), "")
            # A GPU's streams; on a CPU, XLA's own threads. "XLA" lines of a GPU sum others up.
            gpu = "GPU" in where and "Stream" in thread
            if each.get("ph") == "X" and (gpu or ("CPU" in where and "Eigen" in thread)):
                spent[each["name"]] += each.get("dur", 0)
                count[each["name"]] += 1
    return [
        {"name": name[:120], "milliseconds": round(us / 1000, 3), "count": count[name]}
        for name, us in spent.most_common(keep)
    ]


if __name__ == "__main__":
    main()
