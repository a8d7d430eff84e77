"""How the processes of a run meet: real ones on loopback, and the rules they follow."""

import socket
import threading
from pathlib import Path

import pytest
from processes import free_ports, run_processes

from gesso.partitioning.hosts.coordination import Client, Missing, Service, Unreachable
from gesso.partitioning.hosts.processes import SINGLE, bind_host, disagreements

WORKER = str(Path(__file__).with_name("hosts_worker.py"))


def run_worker(seconds, **options):
    ended = run_processes([WORKER, str(seconds)], timeout_seconds=90, **options)
    told = "\n".join(f"--- process {n}: {each.code}\n{each.output}" for n, each in enumerate(ended))
    return ended, told


def test_three_processes_meet_and_exchange():
    ended, told = run_worker(60, count=3, devices=2, each={2: {"LATE": "1"}})
    assert [each.code for each in ended] == [0, 0, 0], told
    for process, each in enumerate(ended):
        assert f"met {process} 3 [0, 1, 4] from 0 6" in each.output, told
        assert "everywhere: " in each.output and "invalid literal" in each.output, told


def test_disagreement_names_who_has_what_before_any_device_is_used():
    ended, told = run_worker(60, count=3, each={1: {"EXPERIMENT": "other"}})
    assert [each.code for each in ended] == [3, 3, 3], told
    for each in ended:
        assert "HostsDisagree" in each.output, told
        assert "experiment: same on process 0 (" in each.output, told
        assert "; other on process 1 (" in each.output and "python" not in each.output, told


@pytest.mark.parametrize("missing", [0, 2])
def test_missing_process_is_named_by_all_others(missing):
    late = {1: {"LATE": "1"}}
    ended, told = run_worker(10, count=3, each=late | {missing: {"ABSENT": "1"}})
    for process, each in enumerate(ended):
        if process != missing:
            assert each.code == 3 and each.seconds < 45, told
            assert f"process {missing} d" in each.output, told
            assert f"this is process {process}" in each.output and "10 s" in each.output, told


@pytest.fixture
def service():
    address = ("127.0.0.1", free_ports())
    made = Service(address, count=2, peer_timeout_seconds=1.0)
    clients = [Client(address, process=process) for process in range(2)]
    yield made, clients
    for client in clients:
        client.close()
    made.close(0)


def test_gather_names_who_did_not_come(service):
    _, (first, _) = service
    with pytest.raises(Missing, match="start: process 1 did not answer in 0 s") as error:
        first.gather("start", "here", 0.2)
    assert error.value.missing == [1]


def test_key_that_nobody_sets_times_out(service):
    _, (first, second) = service
    with pytest.raises(TimeoutError, match="nobody set 'a'"):
        first.get("a", 0.1)
    second.set("a", [1, {"b": None}])
    assert first.get("a", 5.0) == [1, {"b": None}]


def test_two_processes_of_one_number_are_refused(service):
    _, (first, _) = service
    first.set("a", 1)
    for process, told in ((0, "two processes of this run say"), (7, "process 7 joined a run of 2")):
        other = Client(first._address, process=process)
        with pytest.raises(ValueError, match=told):
            other.connect(5.0)
        other.close()


def test_silent_process_is_lost_and_one_that_left_is_not(service):
    _, (first, second) = service
    assert second.beat(phase="data", progress=3, timeout_seconds=5) is None
    failure = None
    for _ in range(10):
        failure = failure or first.beat(phase="step", progress=4, timeout_seconds=5)
    assert failure and failure["process"] == 1 and failure["phase"] == "data"
    assert "no sign of life for 1 s" in failure["error"]


def test_process_that_left_is_not_missed(service):
    _, (first, second) = service
    second.beat(phase="data", progress=3, timeout_seconds=5)
    second.leave(5)
    for _ in range(5):
        assert first.beat(phase="step", progress=4, timeout_seconds=5) is None


def test_hang_report_says_who_is_behind(service):
    _, (first, second) = service
    second.beat(phase="data", progress=3, timeout_seconds=5)
    first.beat(phase="step", progress=4, timeout_seconds=5)
    record = {"process": 0, "phase": "step", "error": "no progress", "hang": True}
    assert first.fail(record, 5) == "behind the others: process 1 in phase data"


def test_service_outlives_what_does_not_speak_its_language(service):
    _, (first, second) = service
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"op": "get"}\n', b"\xff\xfe\n"):
        with socket.create_connection(first._address) as connection:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    first.set("a", 1)
    assert second.get("a", 5.0) == 1


def test_threads_that_come_and_go_leave_no_connections(service):
    _, (first, _) = service

    def call():
        first.set("a", 1)
        first.disconnect()

    for _ in range(20):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert first._open == []


def test_call_after_close_connects_again(service):
    _, (first, _) = service
    first.set("a", 1)
    first.close()
    with pytest.raises(Unreachable):
        first.set("a", 2)
    first.set("a", 3)
    assert first.get("a", 1.0) == 3


def test_nobody_listening_is_unreachable():
    with pytest.raises(Unreachable, match="process 0 does not answer at 127.0.0.1"):
        Client(("127.0.0.1", free_ports()), process=1).connect(0.5)


def test_single_process_needs_no_connection():
    SINGLE.barrier("anything", 1)
    assert SINGLE.gather("x", 3, timeout_seconds=1) == [3]
    assert SINGLE.share("x", 4, timeout_seconds=1) == 4
    with pytest.raises(ZeroDivisionError):
        SINGLE.on_first("x", lambda: 1 // 0, timeout_seconds=1)


def test_listens_only_where_the_others_reach_it(monkeypatch):
    assert bind_host("127.0.0.1") == "127.0.0.1"
    assert bind_host("localhost") == "localhost"
    monkeypatch.setattr(socket, "gethostbyname", {"a": "10.0.0.5", "b": "127.0.1.1"}.__getitem__)
    assert bind_host("a") == "10.0.0.5"
    assert bind_host("b") == "0.0.0.0"


def test_disagreements_list_the_majority_first():
    found = [
        {"name": f"h{n}", "agreement": {"jax": "0.11" if n == 2 else "0.10", "python": "3"}}
        for n in range(4)
    ]
    told = disagreements(found)
    assert told == "  jax: 0.10 on process 0 (h0), 1 (h1), 3 (h3); 0.11 on process 2 (h2)"
    assert disagreements(found[:2]) == ""
    assert "nothing on process 1" in disagreements([found[0], {"name": "h", "agreement": {}}])
