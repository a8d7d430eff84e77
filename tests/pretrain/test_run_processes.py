"""Real processes on loopback: two are one, and told to stop they stop at the same step."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from processes import run_processes

from gesso.pretrain.exits import DONE, PREEMPTED, REFUSED
from gesso.records.metrics import read_metrics

WORKER = str(Path(__file__).with_name("train_worker.py"))
SMALL = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 64,
    "length": 64,
    "batch": 16,
    "steps": 8,
    "checkpoint.every_steps": 4,
    "optimizer.schedule.warmup_steps": 2,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 4,
    "evaluation.rows": 4,
    "evaluation.sample_every_steps": 8,
    "evaluation.sample_tokens": 8,
    "mesh.data": 2,
    "mesh.fsdp": 2,
}
TIMED = ("time", "seconds", "seconds_left", "tokens_per_second", "data_wait_fraction")


# What any experiment can be told to be short.
SHORT = {
    "batch": 8,
    "steps": 3,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 3,
    "evaluation.rows": 2,
    "evaluation.sample_every_steps": 0,
    "mesh.data": 2,
    "mesh.fsdp": 2,
}


def start(folder, *, count, devices, overrides=None, name="debug-gpt-neo", **options):
    settings = json.dumps((SMALL if name == "debug-gpt-neo" else SHORT) | (overrides or {}))
    command = [WORKER, name, str(folder), settings]
    return run_processes(command, count=count, devices=devices, timeout_seconds=300, **options)


def records(folder, kind="train"):
    return {r["step"]: r for r in read_metrics(folder) if r["kind"] == kind}


def test_two_processes_are_one(tmp_path):
    one = start(tmp_path / "one", count=1, devices=4)
    two = start(tmp_path / "two", count=2, devices=2)
    for ended in (*one, *two):
        assert ended.code == DONE, ended.output[-2000:]
    a, b = records(tmp_path / "one"), records(tmp_path / "two")
    assert sorted(a) == sorted(b) == list(range(1, 9))
    for step in a:
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens"):
            assert a[step][key] == b[step][key]
        # Across processes gloo sums, within one XLA: a rounding of 4.8e-7 at losses near 5.6.
        assert b[step]["loss"] == pytest.approx(a[step]["loss"], abs=3e-6)
    first, second = (records(tmp_path / run, "evaluation") for run in ("one", "two"))
    assert sorted(first) == sorted(second) == [4, 8]
    assert second[8]["bits_per_byte"] == pytest.approx(first[8]["bits_per_byte"], abs=1e-5)
    assert second[8]["bytes"] == first[8]["bytes"]
    texts = [
        [r["text"] for r in read_metrics(tmp_path / run) if r["kind"] == "sample"]
        for run in ("one", "two")
    ]
    assert len(texts[0]) == 3
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["debug-bert", "debug-elmo", "debug-t5", "debug-transformer"])
def test_two_processes_are_one_whatever_is_trained(name, tmp_path):
    """Masks and pairs are drawn per row, and a row carries its own state: no share changes them."""
    one = start(tmp_path / "one", count=1, devices=4, name=name)
    two = start(tmp_path / "two", count=2, devices=2, name=name)
    for ended in (*one, *two):
        assert ended.code == DONE, ended.output[-2000:]
    a, b = records(tmp_path / "one"), records(tmp_path / "two")
    assert sorted(a) == sorted(b) == [1, 2, 3]
    for step in a:
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens", "counts"):
            assert a[step][key] == b[step][key]
        assert b[step]["loss"] == pytest.approx(a[step]["loss"], abs=1e-5)
    first, second = (records(tmp_path / run, "evaluation")[3]["terms"] for run in ("one", "two"))
    for term, figures in first.items():
        assert second[term]["count"] == figures["count"]
        assert second[term]["mean"] == pytest.approx(figures["mean"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "laid_out",
    [
        {"layout": "fsdp_tensor", "mesh.replica": 2, "mesh.data": 1, "mesh.tensor": 2},
        {"layout": "fsdp_optimizer", "mesh.data": 2, "mesh.fsdp": 4},
    ],
    ids=["fsdp_tensor over two slices", "fsdp_optimizer"],
)
def test_four_processes_are_one_and_go_on_as_one_in_another_layout(laid_out, tmp_path):
    """Eight devices of four processes; then, from step 4, four of one that splits otherwise."""
    quiet = {"evaluation.every_steps": 0, "evaluation.sample_every_steps": 0}
    one = start(tmp_path / "one", count=1, devices=8, overrides=quiet | {"mesh.data": 4})
    four = start(tmp_path / "four", count=4, devices=2, overrides=quiet | laid_out)
    for ended in (*one, *four):
        assert ended.code == DONE, ended.output[-2000:]
    first = records(tmp_path / "four")
    shutil.rmtree(tmp_path / "four" / "checkpoints" / "8")
    (rest,) = start(tmp_path / "four", count=1, devices=4, overrides=quiet)
    assert rest.code == DONE, rest.output[-2000:]
    whole, again = (records(tmp_path / run) for run in ("one", "four"))
    assert sorted(whole) == sorted(first) == sorted(again) == list(range(1, 9))
    for step, record in whole.items():
        for other in (first[step], again[step]):
            for key in ("rows", "batch_crc32", "tokens", "loss_tokens"):
                assert other[key] == record[key]
            assert other["loss"] == pytest.approx(record["loss"], abs=5e-6)
    assert [again[step] == first[step] for step in (4, 5)] == [True, False], "it went on from 4"


def test_told_to_stop_one_process_stops_both_after_the_same_step(tmp_path):
    folder = tmp_path / "run"

    def terminate(running):
        def watch():
            while len(records(folder)) < 3 and all(p.poll() is None for p in running):
                time.sleep(0.05)
            os.kill(running[1].pid, signal.SIGTERM)

        threading.Thread(target=watch).start()

    long = {"steps": 400, "evaluation.every_steps": 0, "evaluation.sample_every_steps": 0}
    stopped = start(folder, count=2, devices=2, overrides=long, started=terminate)
    assert [ended.code for ended in stopped] == [PREEMPTED] * 2, stopped[0].output[-2000:]
    steps = {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()}
    last = max(records(folder))
    assert max(steps) == last
    assert last < 400
    refused = start(folder, count=2, devices=2, overrides=long | {"seed": 9})
    assert [ended.code for ended in refused] == [REFUSED] * 2
    assert "seed: 0 there, 9 asked" in refused[0].output
