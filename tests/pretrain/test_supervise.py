"""No failure hangs: real processes on loopback, one of which fails."""

import re
import signal
from pathlib import Path

import pytest
from processes import run_processes

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.processes import SINGLE
from gesso.pretrain.exits import DONE, FAILED, HANG, PEER, PREEMPTED, REFUSED
from gesso.pretrain.failures.supervise import Supervisor, _is_symptom

WORKER = str(Path(__file__).with_name("fault_worker.py"))


def run_worker(folder, fault, process, *, count=2, at=5, timeout_seconds=90):
    ended = run_processes(
        [WORKER, str(folder), fault, str(process), str(at)],
        count=count,
        timeout_seconds=timeout_seconds,
    )
    told = "\n".join(f"--- process {n}: {each.code}\n{each.output}" for n, each in enumerate(ended))
    return ended, told


ERROR = ("error", FAILED, "RuntimeError: injected")
REFUSAL = ("refused", REFUSED, "ValueError: a wrong setting")
KILL = ("kill", -signal.SIGKILL, r"process 1 .* failed in phase \w+: its process ended")


@pytest.mark.parametrize(
    ("fault", "code", "cause", "process"),
    [
        (*ERROR, 0),
        pytest.param(*ERROR, 1, marks=pytest.mark.slow),
        (*REFUSAL, 1),
        pytest.param(*REFUSAL, 0, marks=pytest.mark.slow),
        (*KILL, 0),
        (*KILL, 1),
    ],
)
def test_failure_of_one_ends_the_other_in_seconds_and_is_named(
    tmp_path, fault, code, cause, process
):
    ended, told = run_worker(tmp_path, fault, process)
    failed, other = ended[process], ended[1 - process]
    assert failed.code == code, told
    assert abs(other.seconds - failed.seconds) < 5, told
    if fault == "kill" and process == 0:
        # JAX's own watch of the coordinator may be the faster one; it aborts the process
        assert other.code in (PEER, -signal.SIGABRT), told
        cause = "process 0|another task died"
    else:
        # What one refuses, starting the others again would not mend either.
        assert other.code == (REFUSED if fault == "refused" else PEER), told
    assert re.search(cause, other.output), told
    if fault != "kill":
        assert cause.split(": ")[1] in failed.output, told
        assert f"process {process} on" in other.output, told


def test_hang_of_one_ends_all_with_the_stacks_of_all(tmp_path):
    ended, told = run_worker(tmp_path, "hang", 1)
    codes = {each.code for each in ended}
    assert HANG in codes and codes <= {HANG, PEER}, told  # both notice, at about the same time
    assert all("most recent call first" in each.output for each in ended), told
    assert "in fail" in ended[1].output, "the stack shows where it hangs"
    assert "no progress for" in ended[0].output, told
    if ended[0].code == HANG:
        assert "behind the others: process 1 in phase data" in ended[0].output, told


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_frozen_process_is_given_up(tmp_path, process):
    ended, told = run_worker(tmp_path, "freeze", process, timeout_seconds=45)
    other = ended[1 - process]
    assert ended[process].code is None, "a stopped process stays until it is killed"
    assert other.code == PEER and other.seconds < 40, told
    assert re.search("process 1 .* no sign of life|process 0 does not answer", other.output), told


@pytest.mark.slow
def test_run_without_a_failure_ends_well(tmp_path):
    ended, told = run_worker(tmp_path, "none", 0)
    assert [each.code for each in ended] == [DONE, DONE], told
    assert all("went through" in each.output for each in ended), told


@pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_sigterm_to_one_saves_the_same_step_on_all(tmp_path, process):
    ended, told = run_worker(tmp_path, "term", process)
    assert [each.code for each in ended] == [PREEMPTED, PREEMPTED], told
    steps = {int(re.findall(r"stopped at (\d+)", each.output)[0]) for each in ended}
    assert len(steps) == 1, told
    assert [each.name for each in tmp_path.iterdir()] == [str(*steps)]


@pytest.mark.slow
def test_replaced_handler_is_refused_in_a_run_of_several(tmp_path):
    ended, told = run_worker(tmp_path, "replace", 1)
    assert [each.code for each in ended] == [PEER, FAILED], told
    assert "SIGTERM handler was replaced" in ended[0].output, told


def test_hang_of_a_single_process_ends_it(tmp_path):
    (ended,), told = run_worker(tmp_path, "hang", 0, count=1)
    assert ended.code == HANG and "in fail" in ended.output, told


@pytest.mark.parametrize("fault", ["term", pytest.param("interrupt", marks=pytest.mark.slow)])
def test_single_process_saves_when_told_to_stop(tmp_path, fault):
    (ended,), told = run_worker(tmp_path, fault, 0, count=1)
    assert ended.code == PREEMPTED, told
    assert "stopped at 5" in ended.output and (tmp_path / "5").is_dir(), told


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError])
def test_single_process_passes_errors_on(error):
    with pytest.raises(error), Supervisor(SINGLE, HostsConfig()):
        raise error


def test_what_a_lost_peer_looks_like_is_a_symptom():
    assert _is_symptom(RuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"))
    assert _is_symptom(ConnectionResetError())
    assert not _is_symptom(RuntimeError("injected"))
    assert not _is_symptom(ValueError("a connection string is wrong"))


def test_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="no phase is called stepp; there are start, data"):
        HostsConfig(phase_timeout_seconds={"stepp": 3})  # pyright: ignore
