"""Told to stop, in one process: before the first update, while stepping, and twice."""

import os
import signal
import threading

import pytest

from gesso.partitioning.hosts.processes import SINGLE
from gesso.pretrain.exits import PREEMPTED
from gesso.pretrain.failures.preemption import HandlerReplaced, Preemption


@pytest.fixture
def preemption():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    made = Preemption(SINGLE)
    yield made
    made.close()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_while_stepping_stops_after_the_update(preemption, number):
    assert not preemption.must_stop(1)
    os.kill(os.getpid(), number)
    assert preemption.must_stop(2)
    assert preemption.must_stop(3)


def test_second_ctrl_c_interrupts_at_once(preemption):
    preemption.must_stop(1)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_before_the_first_update_there_is_nothing_to_save(preemption):
    with pytest.raises(SystemExit) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == PREEMPTED
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_replaced_handler_is_an_error(preemption):
    ours = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(HandlerReplaced, match="SIG_IGN"):
        preemption.must_stop(1)
    signal.signal(signal.SIGTERM, ours)


def test_handlers_come_back_when_it_is_forgotten():
    before = signal.getsignal(signal.SIGINT)
    made = Preemption(SINGLE)
    assert signal.getsignal(signal.SIGINT) is not before
    del made
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, reached = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: reached.append(Preemption(SINGLE).must_stop(1)))
    thread.start()
    thread.join()
    assert reached == [False] and signal.getsignal(signal.SIGTERM) is before
