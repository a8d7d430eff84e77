"""The benchmarks themselves: they measure what they say, lose nothing and hide no failure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import aot_tpu, bench, gpu, gpu_table, record
from benchmarks.figures import PROGRAMS, Figure, Program
from benchmarks.gpu_jobs import PARTS, Job, jobs
from benchmarks.gpu_shapes import experiment_of, rows
from benchmarks.page import write_section
from gesso.configs.registry import experiment
from gesso.models.count import parameters
from gesso.planning.hlo import collectives, group_size, parse, type_bytes

CHECKOUT = Path(__file__).parents[1]
# What a machine with a GPU and its own Python packages does not have.
MISSING = (
    "tensorflow_datasets", "array_record", "pyarrow", "sentencepiece", "tokenizers", "tiktoken",
    "orbax", "tensorstore", "tyro", "cattrs", "tensorboardX", "etils.epath", "psutil", "grain",
)  # fmt: skip
BLOCK = f"""
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in {MISSING}):
            raise ModuleNotFoundError("blocked for the test: " + name, name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_a_section_of_the_page_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    write_section(page, "cpu", "old table")
    page.write_text("# Ours\n\nprose before\n" + page.read_text() + "prose after\n")
    write_section(page, "tpu", "another")
    write_section(page, "cpu", r"new \1 table")
    text = page.read_text()
    assert "old" not in text and r"new \1 table" in text and "another" in text
    assert text.index("prose before") < text.index("new") < text.index("prose after")


def test_collectives_of_a_loop_are_counted_as_often_as_it_turns():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    turns, width = 5, 256

    def step(x, w):
        def turn(w, _):
            return jax.lax.with_sharding_constraint(w + x.T @ (x @ w), whole), None

        return jax.lax.scan(turn, w, None, length=turns)[0]

    x = jax.ShapeDtypeStruct((64, width), "float32", sharding=split)
    w = jax.ShapeDtypeStruct((width, width), "float32", sharding=whole)
    compiled = jax.jit(step, out_shardings=whole).lower(x, w).compile()
    found, _ = collectives(compiled.as_text())
    reduced = [each for each in found if each.kind == "all-reduce"]
    assert sum(each.count for each in reduced) == turns
    assert {each.group for each in reduced} == {8}
    payload = turns * width * width * 4
    assert sum(each.payload_bytes for each in reduced) == payload
    assert sum(each.wire_bytes for each in reduced) == payload * 2 * 7 / 8


def test_hlo_spelled_as_tpus_do():
    text = """HloModule jit_step

%condition (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(28)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%fused (a: bf16[64,8]) -> bf16[64,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  ROOT %r = bf16[64,8]{1,0:T(8,128)} all-reduce(%a), channel_id=7, replica_groups=[4,4]<=[16], to_apply=%add
}

%started (a: bf16[4,8]) -> bf16[64,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[64,8]{1,0} all-gather(%a), channel_id=3, replica_groups=mesh['a'=16,'b'=4] {'a'}, dimensions={0}
}

%carried_on (a: bf16[4,8]) -> bf16[64,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  ROOT %again = bf16[64,8]{1,0:S(1)} all-gather(%a), channel_id=3, replica_groups=mesh['a'=16,'b'=4] {'a'}, dimensions={0}
}

%body (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  %x = bf16[4,8]{1,0} constant({...})
  %g = bf16[64,8]{1,0} fusion(%x), kind=kCustom, calls=%started
  %again = bf16[64,8]{1,0:S(1)} fusion(%x), kind=kCustom, calls=%carried_on
  %all-reduce-scatter.1 = bf16[64,8]{1,0} fusion(%g), kind=kCustom, calls=%fused, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[]) tuple(%p)
}

ENTRY %main (q: s32[]) -> s32[] {
  %q = s32[] parameter(0)
  %s = (s32[]) tuple(%q)
  %w = (s32[]) while(%s), condition=%condition, body=%body
  ROOT %o = s32[] get-tuple-element(%w), index=0
}
"""  # noqa: E501
    found, cycles = collectives(text)
    by_kind = {each.kind: each for each in found}
    assert by_kind.keys() == {"all-gather", "reduce-scatter"}
    gather, scatter = by_kind["all-gather"], by_kind["reduce-scatter"]
    assert (gather.count, gather.group, gather.payload_bytes) == (28, 16, 28 * 1024)
    assert gather.wire_bytes == 28 * 1024 * 15 / 16
    assert (scatter.count, scatter.group) == (28, 4)
    assert cycles == 2800
    assert parse(text)[1] == "main"


@pytest.mark.parametrize(
    ("spelled", "size"),
    [
        ("replica_groups=[4,64]<=[256]", 64),
        ("replica_groups={{0,1,2},{3,4,5}}, x={1}", 3),
        ("replica_groups=mesh['x'=8,'y'=32], device_ids=([8]) {'y'}", 32),
        ("replica_groups=mesh['x'=64] {'x':(2)4}", 4),
    ],
)
def test_group_sizes(spelled, size):
    assert group_size(spelled) == size


def test_bytes_of_types():
    assert type_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[4], pred[], s4[10])") == [24, 8, 1, 5]


def test_time_is_counted_in_windows_that_wait_once(monkeypatch):
    clock, waits = [0.0], []
    monkeypatch.setattr(record.time, "perf_counter", lambda: clock[0])

    def run():
        clock[0] += 0.1
        return len(waits)

    timing = record.timed(run, waits.append, warmup=2, windows=3, window_seconds=0.5)
    assert timing.calls_per_window == 5 and timing.windows == 3
    assert timing.median == pytest.approx(0.1)
    assert len(waits) == 2 + 3


def test_a_record_is_whole_after_every_figure(tmp_path):
    made = record.Record(tmp_path / "part" / "job.json")
    made.add({"a": 1})
    made.add({"b": 2})
    assert json.loads(made.path.read_text()) == {"a": 1, "b": 2}
    assert list(made.path.parent.iterdir()) == [made.path]


FIGURE = Figure(name="speed", path=("a", "b"), definition="x per y", target=2.0)


@pytest.mark.parametrize(
    ("document", "value", "met"),
    [({"a": {"b": 3}}, 3, True), ({"a": {"b": 1.0}}, 1.0, False), ({"a": 4}, None, None)],
)
def test_a_figure_is_read_and_judged(document, value, met):
    assert FIGURE.read(document) == value
    assert value is None or FIGURE.met(value) is met


def test_every_program_of_the_bench_exists_and_reads_its_arguments():
    for program in PROGRAMS:
        source = CHECKOUT / "benchmarks" / f"{program.module}.py"
        if not source.exists():
            pytest.skip(f"benchmarks/{program.module}.py does not exist yet")
        flags = [each for each in (*program.arguments, *program.quick) if each.startswith("--")]
        assert all(f'"{flag}"' in source.read_text() for flag in flags), program.module


def test_bench_reports_failures_beside_figures(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "good.py").write_text('print(\'{"a": {"b": 3}}\')')
    (folder / "bad.py").write_text("raise SystemExit('the disk is full')")
    (folder / "slow.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    programs = [
        Program(module="good", figures=(FIGURE,)),
        Program(module="bad", figures=(FIGURE,)),
        Program(module="slow", seconds=1, figures=(FIGURE,)),
    ]
    monkeypatch.setattr(bench, "PROGRAMS", programs)
    page, results = tmp_path / "page.md", tmp_path / "cpu.json"
    assert bench.main(["--page", str(page), "--results", str(results)]) == 1
    text = page.read_text()
    assert "| speed | 3 | at least 2 | met | x per y |" in text
    assert text.count("| speed | no figure | at least 2 | failed |") == 2
    assert "the disk is full" in text and "stopped after 1 s" in text
    assert json.loads(results.read_text())["good"]["document"] == {"a": {"b": 3}}
    # What is not run again stays; what now works is no longer failed.
    (folder / "bad.py").write_text('print(\'{"a": {"b": 1}}\')')
    assert bench.main(["--only", "bad", "--page", str(page), "--results", str(results)]) == 1
    text = page.read_text()
    assert "NOT MET" in text and "| met |" in text and "disk" not in text


def test_jobs_have_names_of_their_own_and_modules():
    for device in ("gpu", "cpu"):
        found = jobs(device=device, tiny=False, packs="packs")
        names = [(each.part, each.name) for each in found]
        assert len(set(names)) == len(names)
        assert {each.part for each in found} == set(PARTS)
        for each in found:
            assert (CHECKOUT / "benchmarks" / f"{each.module}.py").exists()
            json.dumps(each.specification)
    on_cpu = jobs(device="cpu", tiny=True, packs="packs")
    assert not [each for each in on_cpu if each.specification.get("attention") == "cudnn"] or all(
        each.module == "gpu_torch"
        for each in on_cpu
        if each.specification.get("attention") == "cudnn"
    )


@pytest.mark.parametrize("tiny", [False, True])
def test_every_job_of_steps_is_a_valid_experiment(tiny):
    shapes = [j for j in jobs(device="gpu", tiny=tiny, packs="") if j.part in ("steps", "trace")]
    for each in shapes:
        e = experiment_of(each.specification)
        assert not e.model.problems(), each.name
        assert e.length <= e.model.positions
        assert e.precision.compute == "bfloat16" and e.precision.params == "float32"


def test_synthetic_rows_are_rows_of_documents():
    e = SimpleNamespace(batch=4, length=64, model=SimpleNamespace(vocab=50))
    packed = rows(e, "packed", overlap=1)
    single = rows(e, "single", overlap=1)
    assert packed["tokens"].shape == (4, 65) and packed["tokens"].max() < 50
    assert (single["segments"] == 1).all() and (single["positions"] == np.arange(65)).all()
    starts = packed["positions"] == 0
    assert (np.diff(packed["segments"], axis=1) == starts[:, 1:]).all()
    assert packed["segments"].max() > 1 and (packed["segments"][:, 0] == 1).all()


def test_torch_peers_have_our_parameters():
    pytest.importorskip("torch")
    from benchmarks.gpu_torch import GPT

    for shape in ("gpt-neo-125m", "gpt2-124m", "gpt-j-6b"):
        found = jobs(device="cpu", tiny=True, packs="")
        job = next(j for j in found if j.name == f"{shape}-torch-flash")
        model = experiment_of(job.specification).model
        peer = GPT(model, length=64, recompute=False)
        assert sum(each.numel() for each in peer.parameters()) == parameters(model)["total"]


def test_a_job_that_is_stopped_keeps_its_figures(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"__path__.append({str(CHECKOUT / 'benchmarks')!r})")
    (folder / "slow.py").write_text(
        "import time\nfrom benchmarks.record import job\nspec, record = job()\n"
        "record.add({'tokens_per_second': spec['rate']})\nprint('half-way', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    each = Job(
        part="steps",
        name="slow",
        module="slow",
        specification={"rate": 7.0, "device": "cpu"},
        seconds=5,
    )
    result = gpu.run(each, tmp_path / "out", gpu.time.monotonic() + 60)
    assert result["status"] == "stopped" and result["figures"] == {"tokens_per_second": 7.0}
    assert "half-way" in result["log"]
    late = gpu.run(each, tmp_path / "out", gpu.time.monotonic() + 1)
    assert late["status"] == "not run"


def test_the_table_compares_with_the_best_torch_of_the_same_shape():
    def job(shape, rate, **figures):
        timing = {"highest": 1.1, "lowest": 0.9, "median": 1.0}
        return {
            "status": "ok",
            "specification": {"shape": shape, "tiny": False},
            "figures": {
                "tokens_per_second": rate,
                "seconds_per_step": 1.0,
                "timing": timing,
                "mfu": 0.5,
                "peak_gib": None,
            }
            | figures,
        }

    found = {
        "steps/a-ours": job("a", 300.0),
        "steps/a-torch": job("a", 200.0, torch="2"),
        "steps/a-torch-slow": job("a", 100.0, torch="2"),
        "steps/b-ours": job("b", 50.0),
    }
    environment = {"card": "one", "date": "today", "commit": "c", "versions": {"jax": "1"}}
    text = gpu_table.markdown({"environment": environment, "jobs": found})
    lines = {line.split(" | ")[0][2:]: line for line in text.splitlines() if "ours" in line}
    assert lines["a-ours"].endswith("| 1.50 |") and lines["b-ours"].endswith("| n/a |")


def run_gpu_script(tmp_path, *, parts, patterns):
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(BLOCK)
    command = ["bash", "benchmarks/gpu.sh", str(tmp_path / "out"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--parts", parts, "--jobs", patterns],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "blocked")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out/gpu.json").read_text())["jobs"]
    return results, (tmp_path / "out/gpu.md").read_text()


def held_to_packs(results):
    packs = results["packs/float32-blocks"]
    assert packs["status"] in ("ok", "skipped"), packs  # where they do not lie beside the checkout
    if packs["status"] == "ok":
        assert {each.get("passes") for each in packs["figures"]["packs"].values()} == {True}, packs


def test_the_gpu_script_runs_on_a_cpu_without_data_preparation_packages(tmp_path):
    results, text = run_gpu_script(
        tmp_path,
        parts="packs,steps",
        patterns="float32-blocks,gpt-neo-125m-ours-*-packed,gpt-neo-125m-torch-flash",
    )
    held_to_packs(results)
    ours = results["steps/gpt-neo-125m-ours-blocks-packed"]
    assert ours["status"] == "ok", ours
    assert ours["figures"]["finite"] and ours["figures"]["tokens_per_second"] > 0
    assert ours["figures"]["last_loss"] < ours["figures"]["first_loss"]
    peer = results["steps/gpt-neo-125m-torch-flash"]
    assert peer["status"] == "ok" or "No module named 'torch'" in peer["log"]
    assert "nothing here is a measurement" in text
    assert "gpt-neo-125m-ours-blocks-packed" in text


@pytest.mark.slow
def test_every_part_of_the_gpu_script_runs_on_a_cpu(tmp_path):
    results, text = run_gpu_script(
        tmp_path,
        parts="packs,steps,attention,trace",
        patterns="float32-blocks,gpt-j-6b-ours-blocks-single,ours-64,gpt-neo-125m",
    )
    assert len(results) == 4
    assert {each["status"] for each in results.values()} <= {"ok", "skipped"}, text
    held_to_packs(results)
    assert results["trace/gpt-neo-125m"]["figures"]["operations"]
    assert {"blocks", "dense"} <= results["attention/ours-64"]["figures"]["variants"].keys()


def test_pods_to_compile_for_are_experiments_that_exist():
    names = [case.name for case in aot_tpu.CASES]
    assert len(set(names)) == len(names)
    for case in aot_tpu.CASES:
        e = experiment(case.experiment, case.overrides)
        tensor = case.mesh.get("tensor", 1)
        assert e.model.vocab % tensor == 0 and e.model.heads % tensor == 0, case.name
        assert e.model.embed % case.mesh.get("fsdp", 1) == 0
        assert case.topology.split(":")[0] in aot_tpu.HBM_GIB


def test_a_pod_that_is_too_small_is_shown_as_such():
    found = {
        "a": {"fits": False, "refused": "RESOURCE_EXHAUSTED: exceeds available HBM"},
        "b": {"failed": "still compiling"},
    }
    text = aot_tpu.markdown(found)
    assert text.count("| NO |") == 2 and "exceeds available HBM" in text


def test_a_device_array_is_what_windows_wait_for():
    timing = record.timed(lambda: jnp.ones(4) + 1, jax.block_until_ready, windows=2)
    assert 0 < timing.lowest <= timing.median <= timing.highest
