"""Spans of every process, and who the others waited for."""

import json
from pathlib import Path

import pytest
from processes import run_processes

from gesso.partitioning.hosts.processes import SINGLE, Hosts
from gesso.partitioning.machines.probe import time_devices
from gesso.pretrain.exits import DONE
from gesso.records.spans import Spans, read_spans
from gesso.records.stragglers import host_times, verdicts

WORKER = str(Path(__file__).with_name("straggler_worker.py"))


def line(number, /, *, overlapped=False, **spans):
    return {"step": number, "host": "a", "overlapped": overlapped, "spans": spans}


def lines(count, **spans):
    return [line(number, **spans) for number in range(1, count + 1)]


def test_phases_add_up_and_a_line_is_one_interval(tmp_path):
    now, heard, records = [0.0], [], []
    hosts = Hosts(process=1, count=2, names=("a", "b"))
    spans = Spans(
        tmp_path, hosts, progress=heard.append, record=records.append, overlapped=True,
        clock=lambda: now[0],
    )  # fmt: skip
    for phase, seconds in (("data", 1), ("step", 2), ("wait", 4), ("step", 8), ("data", 16)):
        spans.progress(phase)
        now[0] += seconds
    spans.record({"step": 5})
    spans.close()
    (made,) = read_spans(tmp_path)[1]
    assert made["spans"] == {"start": 0, "data": 17, "step": 10, "wait": 4}
    assert (made["step"], made["host"], made["overlapped"]) == (5, "b", True)
    assert heard[:4] == ["data", "step", "step", "step"], "to the watchdog, waiting is a step"
    assert records == [{"step": 5}]


def test_one_process_writes_nothing(tmp_path):
    spans = Spans(tmp_path, SINGLE, progress=print, record=lambda r: None, overlapped=True)
    spans.record({"step": 1})
    spans.close()
    assert not list(tmp_path.iterdir()) and read_spans(tmp_path) == {}


def test_a_torn_line_and_a_repeated_step(tmp_path):
    (tmp_path / "hosts").mkdir()
    written = [line(1, data=1), line(2, data=2), line(2, data=3)]
    text = "".join(json.dumps(each) + "\n" for each in written) + '{"step": 3, "sp'
    (tmp_path / "hosts/0.jsonl").write_text(text)
    assert [each["spans"]["data"] for each in read_spans(tmp_path)[0]] == [1, 3]


def test_who_is_late_waits_least():
    found = host_times({
        0: lines(5, data=0.1, step=0.1, wait=0.8),
        1: lines(5, data=0.7, step=0.1, wait=0.2),
        2: lines(5, data=0.1, step=0.1, wait=0.8),
    })  # fmt: skip
    assert [each.late for each in found] == [0, 4, 0], "the first interval is not looked at"
    assert found[1].caused == pytest.approx(4 * 0.6)
    (told,) = verdicts(found)
    assert "process 1 on a" in told and "2.4 s (60% of the time)" in told and "in data" in told


def test_a_host_that_still_waits_for_its_devices_holds_nobody_up():
    slow = {"data": 0.3, "step": 0.1, "wait": 0.6}
    quick = {"data": 0.1, "step": 0.1, "wait": 0.8}
    hidden = {0: lines(5, overlapped=True, **quick), 1: lines(5, overlapped=True, **slow)}
    assert not verdicts(host_times(hidden))
    exposed = {0: lines(5, **quick), 1: lines(5, **slow)}
    assert verdicts(host_times(exposed)), "where nothing overlaps it does"


def test_a_slow_device_is_named():
    probes = {0: [1.0, 1.0, 1.1], 1: [1.0, 1.6, 1.0]}
    spans = {p: [{"step": 0, "host": f"h{p}", "probe": times}] for p, times in probes.items()}
    (told,) = verdicts(host_times(spans))
    assert "process 1 on h1: local device 1 took up to 1.60 times" in told


def test_the_probe_times_every_local_device():
    import jax

    assert len(time_devices()) == jax.local_device_count() and min(time_devices()) > 0


@pytest.mark.slow
def test_a_late_process_of_two_is_found(tmp_path):
    settings = {
        "data.store": "embedded:bytes:0.3", "model.layers": 2, "model.embed": 16, "model.heads": 2,
        "model.mlp": 32, "model.positions": 32, "model.window": 8, "length": 32, "batch": 8,
        "steps": 12, "logging.every_steps": 2, "logging.tensorboard": False, "mesh.data": 2,
        "evaluation.every_steps": 0, "evaluation.sample_every_steps": 0,
    }  # fmt: skip
    command = [WORKER, "debug-gpt-neo", str(tmp_path), json.dumps(settings)]
    ended = run_processes(command, count=2, devices=1, timeout_seconds=120)
    assert [each.code for each in ended] == [DONE] * 2, ended[0].output[-1500:]
    log = (tmp_path / "log.txt").read_text()
    assert "for process 1 on" in log and "most of it in data" in log, log
    page = (tmp_path / "report.html").read_text()
    assert 'id="hosts"' in page and "The others waited" in page
