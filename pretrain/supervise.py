"""No failure hangs: a process that fails, hangs or disappears ends the whole run, with its reason."""

import faulthandler
import os
import socket
import sys
import threading
import time

from partitioning.config import HostsConfig
from partitioning.hosts import Hosts
from pretrain.exits import HANG


class Supervisor:
    """Watches this process: a phase longer than it may take ends it with HANG."""

    def __init__(self, hosts: Hosts, config: HostsConfig) -> None:
        self._hosts, self._config = hosts, config
        self._phase = ("start", time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def progress(self, phase: str) -> None:
        self._phase = (phase, time.monotonic())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        limit = self._config.hang_timeout_seconds
        while not self._stop.wait(0.5):
            phase, since = self._phase
            if limit and time.monotonic() - since > limit:
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.write(f"hang in {phase} on {socket.gethostname()}\n")
                os._exit(HANG)
