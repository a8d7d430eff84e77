"""Records survive kills, are cut at the resumed step, and stay strict JSON."""

import json
import math
import sys

import jax
import numpy as np
import pytest

from gesso.pretrain.config import LoggingConfig
from gesso.records.metrics import Metrics, read_metrics, scalars

QUIET = LoggingConfig(tensorboard=False)


def train(step, **more):
    return {"kind": "train", "step": step, "loss": 1.0 / (step + 1), **more}


def write(folder, steps, *, resume_step=0):
    with Metrics(folder, QUIET, resume_step=resume_step) as metrics:
        for step in steps:
            metrics.write(train(step))


def steps(folder, kind="train"):
    return [record["step"] for record in read_metrics(folder) if record["kind"] == kind]


def test_every_record_is_one_whole_line_at_once(tmp_path):
    metrics = Metrics(tmp_path, QUIET, resume_step=0)
    for step in range(3):
        metrics.write(
            train(step, loss=np.float32(0.1), rows=np.arange(2), device=jax.numpy.ones(2))
        )
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == step + 1
        record = json.loads(lines[-1])
        assert (record["rows"], record["device"]) == ([0, 1], [1.0, 1.0])
        assert np.float32(record["loss"]) == np.float32(0.1), "no digit of a loss is lost"
        assert record["time"] > 1.6e9
    metrics.close()
    metrics.close()


def test_resume_drops_what_lies_past_the_step_and_keeps_events(tmp_path):
    write(tmp_path, [10, 20, 30, 40])
    with Metrics(tmp_path, QUIET, resume_step=40) as metrics:
        metrics.write({"kind": "event", "step": 40, "event": "preempted"})
    write(tmp_path, [30], resume_step=20)
    assert steps(tmp_path) == [10, 20, 30]
    events = [
        (r["event"], r.get("records")) for r in read_metrics(tmp_path) if r["kind"] == "event"
    ]
    assert events == [("preempted", None), ("truncated", 2)]


def test_resume_at_the_last_step_leaves_the_file_as_it_is(tmp_path):
    write(tmp_path, [10, 20])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    Metrics(tmp_path, QUIET, resume_step=20).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert steps(tmp_path) == [1], "readers see whole lines only"
    write(tmp_path, [2, 3], resume_step=2)
    assert steps(tmp_path) == [1, 2, 3]
    for line in path.read_text().splitlines():
        json.loads(line)


def test_zeros_left_by_a_power_cut_do_not_stop_a_run(tmp_path):
    write(tmp_path, [1])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"\0" * 50 + b"\n\xff\xfe\n{}\n")
    write(tmp_path, [2], resume_step=1)
    assert steps(tmp_path) == [1, 2]


def test_numbers_that_are_none_are_strict_json_and_come_back(tmp_path):
    with Metrics(tmp_path, QUIET, resume_step=0) as metrics:
        metrics.write(train(1) | {"loss": math.nan, "grad_norm": np.float32(np.inf), "mfu": None})
        metrics.write({"kind": "sample", "step": 1, "prompt": "Infinity", "text": "NaN"})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    record, sample = read_metrics(tmp_path)
    assert math.isnan(record["loss"]) and record["grad_norm"] == math.inf and record["mfu"] is None
    assert (sample["prompt"], sample["text"]) == ("Infinity", "NaN")


def test_a_full_disk_raises_and_leaves_whole_lines(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path, QUIET, resume_step=0)
    metrics.write(train(1))
    real = __import__("os").write
    monkeypatch.setattr("gesso.records.metrics.os.write", lambda file, line: real(file, line[:7]))
    with pytest.raises(OSError, match="7 of"):
        metrics.write(train(2))
    monkeypatch.undo()
    metrics.write(train(3))
    metrics.close()
    assert steps(tmp_path) == [1, 3]


@pytest.mark.parametrize("record", [{"kind": "trian", "step": 1}, {"kind": "train"}, {}])
def test_records_without_step_or_known_kind_are_refused(tmp_path, record):
    with (
        Metrics(tmp_path, QUIET, resume_step=0) as metrics,
        pytest.raises(ValueError, match="kind"),
    ):
        metrics.write(record)


def test_only_the_first_process_writes(tmp_path):
    with Metrics(tmp_path / "run", LoggingConfig(), resume_step=0, process=1) as metrics:
        metrics.write(train(1))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_scalars(tmp_path):
    with Metrics(tmp_path, LoggingConfig(), resume_step=0) as metrics:
        metrics.write(train(1, components={"Stdlib": 2.5}))
        metrics.write({"kind": "sample", "step": 1, "prompt": "The ", "text": "end"})
    (file,) = (tmp_path / "events").iterdir()
    content = file.read_bytes()
    for name in (b"train/loss", b"train/components/Stdlib", b"sample/The"):
        assert name in content


def test_scalars_are_flat_numbers():
    record = train(3, mfu=None, components={"A": 1}, rows=[0, 8], note="x")
    assert scalars(record) == {"train/loss": 0.25, "train/components/A": 1.0}


def test_wandb_asked_but_missing_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'gesso\[wandb\]'"):
        Metrics(tmp_path, LoggingConfig(wandb="project"), resume_step=0)


def test_wandb_continues_one_run_per_folder(tmp_path, monkeypatch):
    class Fake:
        logged, ids = [], []

        def init(self, *, id, **options):
            self.ids.append(id)
            return self

        def log(self, figures, *, step):
            self.logged.append((step, figures["train/loss"]))

        def finish(self):
            self.logged.append("finished")

    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 3):
        config = LoggingConfig(tensorboard=False, wandb="project")
        with Metrics(tmp_path, config, resume_step=step) as metrics:
            metrics.write(train(step))
    assert fake.logged == [(1, 0.5), "finished", (3, 0.25), "finished"]
    assert len(set(fake.ids)) == 1
