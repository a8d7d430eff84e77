"""Told to stop: a SIGTERM to any process of the run ends all of them after the same step."""

import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from gesso.partitioning.hosts.processes import Hosts
from gesso.pretrain.exits import PREEMPTED

# What signal.signal takes and gives back.
Handler = Callable[[int, FrameType | None], Any] | int | None


class HandlerReplaced(RuntimeError):
    """Something took the SIGTERM handler over: the run would die without saving."""


class Preemption:
    """Ask `must_stop(step)` after every update, in every process.

    One process: SIGTERM and the first Ctrl-C are answered after the running update (a second
    Ctrl-C interrupts at once); before the first update they end the process with status 75, as
    there is nothing to save. Several processes: JAX's preemption service, which hosts.start began,
    turns a SIGTERM to any of them into one step for all.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._distributed = hosts.count > 1
        self._flags = _Flags()
        self._installed: dict[int, Handler] = {}
        if self._distributed:
            self._expected = hosts.terminate_handler  # JAX's own is below Python and not seen
        elif threading.current_thread() is threading.main_thread():
            self._expected = _handler(self._flags)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._installed[number] = signal.signal(number, self._expected)
        else:
            self._expected = None  # signals belong to the main thread's owner
        self._undo = weakref.finalize(self, _restore, self._installed, self._expected)

    def must_stop(self, step: int) -> bool:
        """Whether this is the step to save and stop at. Raises HandlerReplaced."""
        current = signal.getsignal(signal.SIGTERM)
        if self._expected is not None and current != self._expected:
            raise HandlerReplaced(
                f"the SIGTERM handler was replaced by {current!r}; a preempted run would lose its"
                " last steps: install that handler before the run starts, or not at all"
            )
        if self._distributed:
            from jax.experimental.multihost_utils import reached_preemption_sync_point

            return reached_preemption_sync_point(step)
        self._flags.looping = True
        return self._flags.asked

    def close(self) -> None:
        """Put the handlers back that were there before."""
        self._undo()


class _Flags:
    asked = False
    looping = False


def _handler(flags: _Flags) -> Handler:
    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if not flags.looping:
            sys.stderr.write(f"{name} before the first update: nothing to save, stopping\n")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(PREEMPTED)
        if flags.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        flags.asked = True
        sys.stderr.write(f"{name}: saving after this update, then stopping\n")

    return handle


def _restore(installed: dict[int, Handler], ours: Handler) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, before in installed.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, before)
    installed.clear()
