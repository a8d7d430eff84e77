"""A run in its folder: restarted = uninterrupted, any mesh, two processes = one, one compile."""

import json
import shutil

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.checks import validate
from gesso.pretrain.config import PhaseConfig
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import ExperimentError, override
from gesso.pretrain.folder.claim import RunFolderError
from gesso.pretrain.open import open_run
from gesso.pretrain.session import run
from gesso.records.metrics import read_metrics

SMALL = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 64,
    "length": 64,
    "batch": 16,
    "steps": 12,
    "optimizer.schedule.kind": "constant",
    "optimizer.schedule.warmup_steps": 2,
    "checkpoint.every_steps": 4,
    "checkpoint.keep_last": 10,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 0,
    "evaluation.sample_every_steps": 0,
    "mesh": MeshConfig(data=2, fsdp=4),
}


def small(name="debug-gpt-neo", **changes):
    return override(configs.experiment(name), SMALL | changes)


def train_records(folder):
    return {r["step"]: r for r in read_metrics(folder) if r["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    result = run(small(), folder=folder)
    assert result.status == DONE
    assert result.step == 12
    return folder


def test_a_run_learns_and_leaves_its_records(whole):
    records = train_records(whole)
    assert sorted(records) == list(range(1, 13))
    assert records[12]["loss"] < records[1]["loss"] - 0.1
    for step, record in records.items():
        assert record["rows"] == [16 * (step - 1), 16 * step]
        assert record["mfu"] is None, "a CPU has no known peak"
        assert 0 <= record["data_wait_fraction"] <= 1
        assert sum(record["components"].values()) > 0
    for name in ("experiment.json", "environment.json", "parameters.json", "corpus.json"):
        assert json.loads((whole / name).read_text())
    assert "continuing" not in (whole / "log.txt").read_text()
    assert (whole / "report.html").stat().st_size > 10_000


def test_restarted_is_uninterrupted_bit_for_bit(whole, tmp_path):
    """I2 on the same mesh: every figure of every step, and every parameter."""
    run(small(steps=5), folder=tmp_path / "run")
    result = run(small(), folder=tmp_path / "run", named={"steps"})
    assert result.step == 12
    a, b = train_records(whole), train_records(tmp_path / "run")
    timed = {"time", "seconds", "seconds_left", "tokens_per_second", "data_wait_fraction"}
    for step in a:
        assert {k: v for k, v in a[step].items() if k not in timed} == {
            k: v for k, v in b[step].items() if k not in timed
        }
    one, two = open_run(whole), open_run(tmp_path / "run")
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, two.params))


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": MeshConfig(data=2, fsdp=2, tensor=2), "layout": "fsdp_tensor"},
        pytest.param(
            {"mesh": MeshConfig(data=8), "layout": "replicated", "data.prefetch": 5},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"mesh": MeshConfig(data=4, sequence=2), "microbatches": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_continued_on_another_mesh_the_rows_are_the_same(whole, tmp_path, changes):
    """I2: the same batches on any mesh; the losses within float32 rounding."""
    run(small(steps=5), folder=tmp_path / "run")
    run(small(**changes), folder=tmp_path / "run", named={"steps"})
    a, b = train_records(whole), train_records(tmp_path / "run")
    for step in a:
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens"):
            assert a[step][key] == b[step][key]
        assert b[step]["loss"] == pytest.approx(a[step]["loss"], abs=2e-5)


def test_a_finished_run_does_nothing_again(whole):
    before = (whole / "metrics.jsonl").read_bytes()
    assert run(small(), folder=whole).status == DONE
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_another_experiment_is_refused_and_nothing_is_touched(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    with pytest.raises(RunFolderError, match="optimizer.learning_rate"):
        run(small(**{"optimizer.learning_rate": 1.0}), folder=whole)
    after = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert {p.name for p in before} == {p.name for p in after}
    assert all(after[p] == before[p] for p in before)


def test_one_compile_per_run(tmp_path):
    """I7: once the first update ran, nothing is compiled until the loop ends."""
    seen: list[tuple[str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: seen.append((event, seconds))
    )
    try:
        from gesso.pretrain import reporter as module

        counts = []
        original = module.Reporter.record

        def record(self, values):
            counts.append(sum("backend_compile" in event for event, _ in seen))
            return original(self, values)

        module.Reporter.record = record
        run(small(steps=8, **{"checkpoint.every_steps": 100}), folder=tmp_path / "run")
    finally:
        module.Reporter.record = original
        jax.monitoring.clear_event_listeners()
    assert len(counts) == 8
    assert counts[1] == counts[-1], f"compilations while stepping: {counts}"


def test_a_host_array_in_the_batch_is_refused_not_transferred():
    """I7: the loop forbids implicit transfers, so a batch that is not placed fails at once."""
    from gesso.pretrain.loop import Figures, Hooks, train

    class Unplaced:
        arrays = {"tokens": np.zeros((8, 8), np.int32)}
        rows, wait_seconds = (0, 8), 0.0

    def nothing(*_):
        return False

    hooks = Hooks(
        record=nothing,
        save=nothing,
        save_due=nothing,
        evaluate=nothing,
        evaluate_due=nothing,
        poll=nothing,
        preempted=nothing,
        progress=nothing,
    )
    figures = Figures(
        terms=("lm",),
        counts=(),
        components=(),
        utilization=nothing,
        log_every=1,
        max_skipped=1,
        total=1,
    )
    step = jax.jit(lambda state, batch: (state, {"loss": batch["tokens"].sum()}))
    with pytest.raises(Exception, match="[Dd]isallowed host-to-device"):
        train({}, [Unplaced()], step, start=0, steps=1, next_row=0, hooks=hooks, figures=figures)


def test_phases_have_rows_of_their_own_and_restart_exactly(tmp_path):
    """BERT's schedule: short rows first. Killed inside a phase or at its end, nothing changes."""
    phases = (PhaseConfig(until=4, length=32, batch=16),)
    experiment = small(steps=6, phases=phases, **{"checkpoint.every_steps": 1})
    run(experiment, folder=tmp_path / "whole")
    want = train_records(tmp_path / "whole")
    rows = [want[step]["rows"] for step in range(1, 7)]
    assert rows == [[0, 16], [16, 32], [32, 48], [48, 64], [0, 16], [16, 32]]
    assert want[4]["tokens"] <= 16 * 32 < want[5]["tokens"] <= 16 * 64
    for last in (2, 4):
        folder = tmp_path / f"killed-{last}"
        shutil.copytree(tmp_path / "whole", folder)
        for step in range(last + 1, 7):
            shutil.rmtree(folder / "checkpoints" / str(step))
        run(experiment, folder=folder)
        for step, record in train_records(folder).items():
            for name in ("rows", "batch_crc32", "loss", "grad_norm"):
                assert record[name] == want[step][name]


def test_phases_that_cannot_be_are_refused():
    for until in (0, 12, 20):
        phases = (PhaseConfig(until=until, length=32, batch=32),)
        with pytest.raises(ExperimentError, match="must rise, from 1 to below steps 12"):
            validate(small(phases=phases), devices=8)
