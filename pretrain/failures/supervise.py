"""No failure hangs: a process that fails, hangs or is lost ends the whole run, and says why."""

import contextlib
import faulthandler
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.coordination import Unreachable
from gesso.partitioning.hosts.processes import Hosts
from gesso.pretrain.exits import FAILED, HANG, PEER, REFUSED

# A failure as process 0's service reports it: process, phase, error, and what else is known.
Failure = dict[str, Any]
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_LOOK_SECONDS = 0.2


class Supervisor:
    """Watches this process, and the others of its run through process 0's service.

    A phase longer than `config` allows dumps the stacks of all threads and ends the process with
    HANG. With several processes, an exception in one, its death, or its silence for
    peer_timeout_seconds ends all others with PEER and one line that names it. Python and JAX would
    have them wait for each other instead, for minutes or forever. Use it as a context, or call
    `close` while the exception, if any, is being handled.
    """

    def __init__(self, hosts: Hosts, config: HostsConfig) -> None:
        self._hosts, self._config = hosts, config
        self._phase, self._since, self._progress = "start", time.monotonic(), 0
        self._closing = threading.Event()
        self._ending = threading.Lock()
        self._failure: Failure | None = None
        self._unreachable = ""
        self._threads = [threading.Thread(target=self._watch, name="supervisor", daemon=True)]
        if hosts.client:
            self._threads.append(
                threading.Thread(target=self._beat, name="supervisor beats", daemon=True)
            )
            self._hook, sys.excepthook = sys.excepthook, self._uncaught
        for thread in self._threads:
            thread.start()

    def progress(self, phase: str) -> None:
        """This process is alive and begins, or goes on with, `phase` (partitioning.config.PHASES);
        another phase than those is allowed hang_timeout_seconds."""
        self._phase, self._since = phase, time.monotonic()
        self._progress += 1

    def close(self) -> None:
        """The run is over. With several processes: they leave together, or, while an exception is
        being handled, this one tells the others and ends here and now."""
        error = sys.exception()
        if self._hosts.client:
            if error is not None:
                self.fail(error)
            self.progress("end")
            self._hosts.close(self._config.hang_timeout_seconds or 1e6)
            sys.excepthook = self._hook
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fail(self, error: BaseException) -> NoReturn:
        """Tell the other processes of `error` and end this one at once, without the exit handlers
        of Python and JAX, which would wait for the others."""
        message = f"{type(error).__name__}: {str(error)[:500]}"
        if _is_symptom(error):
            self._end_by_cause(message)
        code = _status(error)
        self._tell(message, refused=code == REFUSED)
        if code == REFUSED:
            self._end(code, str(error))
        sys.stderr.write("".join(traceback.format_exception(error)))
        self._end(code, message)

    def _uncaught(self, kind: type, error: BaseException, trace: TracebackType | None) -> None:
        del kind, trace
        self.fail(error)

    def _end_by_cause(self, symptom: str) -> None:
        """A failed collective only shows that another process failed: wait for the report of it."""
        deadline = time.monotonic() + self._config.peer_timeout_seconds + 3.0
        while time.monotonic() < deadline:
            self._end_if_others_failed(f" (seen here as {symptom[:120]})")
            time.sleep(0.05)

    def _watch(self) -> None:
        """Decides, and never blocks."""
        while not self._closing.wait(_LOOK_SECONDS):
            self._end_if_others_failed("")
            phase, seconds = self._phase, time.monotonic() - self._since
            limit = self._limit(phase)
            if limit and seconds > limit:
                message = f"no progress for {seconds:.0f} s, {limit} s are allowed in this phase"
                self._end_with_stacks(HANG, self._tell(message, hang=True))

    def _end_with_stacks(self, code: int, message: str) -> NoReturn:
        faulthandler.dump_traceback(all_threads=True)
        self._end(code, f"{message}; the stacks of all threads are above")

    def _limit(self, phase: str) -> float:
        limits: Mapping[str, int] = {**self._config.phase_timeout_seconds}
        return limits.get(phase, self._config.hang_timeout_seconds)

    def _end_if_others_failed(self, seen: str) -> None:
        if failure := self._failure:
            process = failure["process"]
            message = f"process {process} on {self._hosts.names[process]} failed in phase"
            message = f"{message} {failure['phase']}: {failure['error']}{seen}"
            if failure.get("hang"):
                self._end_with_stacks(PEER, "; ".join(filter(None, (message, failure["behind"]))))
            # What one process refuses, a restart of the others does not help.
            self._end(REFUSED if failure.get("refused") else PEER, message)
        if self._unreachable:
            self._end(PEER, self._unreachable + seen)

    def _beat(self) -> None:
        """Talks to the service; may block for as long as a call's deadline."""
        client = self._hosts.client
        assert client
        while not self._closing.is_set():
            try:
                self._failure = client.beat(
                    phase=self._phase,
                    progress=self._progress,
                    timeout_seconds=self._config.peer_timeout_seconds,
                )
            except Unreachable as error:
                if not self._closing.is_set() and self._phase != "end":
                    self._unreachable = f"{error}; process 0 runs on {self._hosts.names[0]}"
                return

    def _tell(self, error: str, *, hang: bool = False, refused: bool = False) -> str:
        """Report to the service, within seconds. `error`, with what the service adds to it."""
        client, hosts = self._hosts.client, self._hosts
        if client is None:
            return error
        self._closing.set()
        behind = []
        record = {
            "process": hosts.process,
            "phase": self._phase,
            "error": error,
            "hang": hang,
            "refused": refused,
        }

        def tell() -> None:
            with contextlib.suppress(Unreachable):
                behind.append(client.fail(record, 2.0))

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(3.0)
        if hosts.service:  # it lives in this process: the others have to hear of it first
            hosts.service.close(3.0)
        return "; ".join(filter(None, (error, *(behind if hang else ()))))

    def _end(self, code: int, message: str) -> NoReturn:
        with self._ending:
            hosts = self._hosts
            where = f"process {hosts.process} of {hosts.count} on {socket.gethostname()}"
            line = f"{where}, phase {self._phase}: {message}"
            sys.stderr.write(line + "\n")
            for handler in logging.getLogger("gesso").handlers:
                if isinstance(handler, logging.FileHandler):  # stderr has it already
                    handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": line}))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _status(error: BaseException) -> int:
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else FAILED
        case KeyboardInterrupt():
            return _INTERRUPTED
        case ValueError():
            return REFUSED
    return FAILED


_SYMPTOMS = ("gloo", "collective", "connection", "unavailable", "deadline", "coordination", "nccl")


def _is_symptom(error: BaseException) -> bool:
    """Whether this may only be what another process's failure looks like from here."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(each in text for each in _SYMPTOMS)
