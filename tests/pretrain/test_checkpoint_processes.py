"""Checkpoints of several processes, on loopback: written together, read by any number of them."""

import re
import signal
import time
from pathlib import Path

import pytest
from processes import run_processes
from small_state import abstract_on, assert_is, mesh_of, state_on

from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.config import CheckpointConfig

WORKER = str(Path(__file__).with_name("checkpoint_worker.py"))


def run_worker(*arguments, count=2, **options):
    ended = run_processes([WORKER, *map(str, arguments)], count=count, **options)
    told = "\n".join(f"--- process {n}: {each.code}\n{each.output}" for n, each in enumerate(ended))
    return ended, told


def test_two_processes_write_and_any_number_reads(tmp_path):
    ended, told = run_worker("save", tmp_path, 4, 1, 3, 6)
    assert [each.code for each in ended] == [0, 0], told
    assert all("saved [3, 6]" in each.output for each in ended), told

    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), log=print)
    restored = checkpoints.restore(abstract_on(mesh_of(2, 4)))
    assert restored and restored.step == 6
    assert_is(restored.state, 6)
    checkpoints.save(8, state_on(mesh_of(8, 1), 8), {"row": 8})
    checkpoints.wait()

    ended, told = run_worker("restore", tmp_path, 2, 2)
    assert [each.code for each in ended] == [0, 0], told
    assert all("restored 8 {'row': 8}" in each.output for each in ended), told
    (tmp_path / "8" / "state" / "manifest.ocdbt").write_bytes(b"")
    ended, told = run_worker("restore", tmp_path, 2, 2)
    assert [each.code for each in ended] == [0, 0], told
    assert all("restored 6 {'row': 6}" in each.output for each in ended), told
    assert len(list(tmp_path.glob("rejected-8-*"))) == 1


def test_the_clock_of_process_0_decides_for_all(tmp_path):
    ended, told = run_worker("due", tmp_path)
    assert [each.code for each in ended] == [0, 0], told
    lines = {line for each in ended for line in each.output.splitlines() if "due" in line}
    assert len(lines) == 1 and lines != {"due []"}, told


def test_all_damaged_is_refused_by_all_processes(tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "something").write_text("no checkpoint")
    ended, told = run_worker("restore", tmp_path, 2, 2)
    assert sorted(each.code for each in ended) in ([2, 2], [2, 71]), told
    assert "no whole one" in told


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_during_a_save_leaves_the_one_before(tmp_path, victim):
    def kill(running):
        deadline = time.monotonic() + 60
        while not (tmp_path / "1").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        running[victim].send_signal(signal.SIGKILL)

    steps = range(1, 200)
    ended, told = run_worker("save", tmp_path, 2, 2, *steps, started=kill)
    codes = [each.code for each in ended]
    assert codes[victim] == -signal.SIGKILL, told
    assert codes[1 - victim] in (71, -signal.SIGABRT), told  # JAX aborts when process 0 is gone
    assert max(each.seconds for each in ended) - min(each.seconds for each in ended) < 10
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    restored = checkpoints.restore(abstract_on(mesh_of(2, 2)))
    assert restored and restored.step in steps
    assert_is(restored.state, restored.step)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(map(str, checkpoints.steps()))


@pytest.mark.slow
def test_saving_does_not_leak_memory(tmp_path):
    # one arena: with the allocator's many, threads that come and go spread their memory over them
    one_arena = {"MALLOC_ARENA_MAX": "1"}
    (ended,), told = run_worker("leak", tmp_path, count=1, timeout_seconds=300, environ=one_arena)
    assert ended.code == 0, told
    early, late = (float(each) for each in re.findall(r"([\d.]+) MB", ended.output))
    assert late < early + 16, f"40 more saves of 16 MB left {late - early:.0f} MB"
