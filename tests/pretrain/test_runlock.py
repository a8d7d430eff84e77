"""The run lock: one owner, whoever races, dies or sleeps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gesso.pretrain.folder.lock import LockHeld, LockLost, RunLock

WORKER = str(Path(__file__).with_name("lock_worker.py"))


def start(folder, seconds, host=""):
    return subprocess.Popen(
        [sys.executable, WORKER, str(folder), str(seconds), host],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def first_line(process):
    assert process.stdout
    return process.stdout.readline()


def outcome(process):
    return process.communicate(timeout=60)[0].split()


def test_one_of_six_that_start_at_once(tmp_path):
    processes = [start(tmp_path, 3) for _ in range(6)]
    words = [outcome(each) for each in processes]
    assert sorted(each[0] for each in words) == ["GOT"] + ["HELD"] * 5
    (owner,) = (each for each in processes if words[processes.index(each)][0] == "GOT")
    held = [each for each in words if each[0] == "HELD"]
    assert all(str(owner.pid) in " ".join(each) for each in held), "the owner is named"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["", "another machine"])
def test_one_of_five_takes_over_from_a_killed_owner(tmp_path, host):
    killed = start(tmp_path, 60)
    assert "GOT" in first_line(killed)
    killed.kill()
    killed.communicate()
    words = [outcome(each) for each in [start(tmp_path, 3, host) for _ in range(5)]]
    assert sorted(each[0] for each in words) == ["GOT"] + ["HELD"] * 4
    assert "RELEASED" in next(each for each in words if each[0] == "GOT")
    waited = next(float(each[1]) for each in words if each[0] == "GOT")
    assert waited < 3 if host == "" else waited >= 4
    assert list(tmp_path.iterdir()) == []


def test_paused_owner_loses_and_stops(tmp_path):
    paused = start(tmp_path, 60)
    assert "GOT" in first_line(paused)
    os.kill(paused.pid, signal.SIGSTOP)
    other = start(tmp_path, 2)
    assert "GOT" in first_line(other)
    os.kill(paused.pid, signal.SIGCONT)
    assert "LOST" in outcome(paused)
    assert outcome(other) == ["RELEASED"]


def test_second_lock_is_refused_with_who_has_it_and_can_come_after(tmp_path):
    lock = RunLock(tmp_path, beat_seconds=0.1, stale_seconds=10)
    lock.acquire()
    with pytest.raises(LockHeld, match=f"process id {os.getpid()}"):
        RunLock(tmp_path, beat_seconds=0.1, stale_seconds=10).acquire()
    lock.check()
    lock.release()
    began = time.monotonic()
    again = RunLock(tmp_path)
    again.acquire()
    assert time.monotonic() - began < 10  # of the 15 that a lock may stand still
    again.release()


def test_wrong_clocks_change_nothing(tmp_path, monkeypatch):
    lock = RunLock(tmp_path, beat_seconds=0.1, stale_seconds=10)
    lock.acquire()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    os.utime(tmp_path / "run.lock", (0, 0))
    with pytest.raises(LockHeld):
        RunLock(tmp_path, beat_seconds=0.1, stale_seconds=10).acquire()
    lock.release()


def test_removed_file_is_noticed_by_the_owner(tmp_path):
    lock = RunLock(tmp_path, beat_seconds=0.1, stale_seconds=10)
    lock.acquire()
    (tmp_path / "run.lock").unlink()
    deadline = time.monotonic() + 10
    with pytest.raises(LockLost, match="the file is gone"):
        while time.monotonic() < deadline:
            lock.raise_if_lost()
            time.sleep(0.05)
    lock.release()


def test_process_number_given_to_another_process_is_not_the_owner(tmp_path):
    lock = RunLock(tmp_path)
    record = json.loads(lock._record()) | {"started": "1", "token": "old"}  # this pid, long ago
    (tmp_path / "run.lock").write_text(json.dumps(record))
    began = time.monotonic()
    lock.acquire()
    assert time.monotonic() - began < 10
    lock.release()


def test_rubbish_in_the_file_goes_stale(tmp_path):
    (tmp_path / "run.lock").write_text("{")
    lock = RunLock(tmp_path, beat_seconds=0.1, stale_seconds=0.5)
    lock.acquire()
    lock.check()
    lock.release()
