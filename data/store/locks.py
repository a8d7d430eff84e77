"""One writer at a time: a lock that dies with its holder and says who that is."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gesso.data.text.rejects import BuildError

# What to do about a builder that holds a lock of the same store.
SHARED = "; wait for it or stop it. Several builders share the work with share=(i, n)"


class Locked(BuildError):
    """Another process holds the lock. The message says which."""


class FileLock:
    """An exclusive flock on a file, held until `release` or the process's end, however it ends.

    Works between hosts where the file system carries flock (Linux NFS does). The file is removed on
    release, so that a finished store has none.
    """

    def __init__(self, path: Path, *, what: str, advice: str = "") -> None:
        self.path = path
        self.what, self.advice = what, advice
        self._file: int | None = None

    def acquire(self, *, waiting: Callable[[str], None] | None = None) -> None:
        """Raises Locked, naming the holder, if another process holds the lock; where `waiting` is
        given, tells it that sentence and waits."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # the folder went with another builder's last lock
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refusal = self._refusal(os.pread(file, 4096, 0))
                if waiting is None:
                    os.close(file)
                    raise Locked(refusal) from None
                waiting(refusal)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX)
                except BaseException:  # Ctrl-C
                    os.close(file)
                    raise
            # The holder before us may have removed the file between our open and our lock.
            if self._is_current(file):
                break
            os.close(file)
        record = {"host": socket.gethostname(), "process": os.getpid()}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(record).encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    @contextmanager
    def wait(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock for a `with` block, waiting for it as `acquire`."""
        self.acquire(waiting=waiting)
        try:
            yield
        finally:
            self.release()

    def _is_current(self, file: int) -> bool:
        try:
            return os.fstat(file).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False

    def _refusal(self, holder: bytes) -> str:
        try:
            record = json.loads(holder)
            who = f"process {record['process']} on host {record['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return f"{self.what} is being built by {who}{self.advice}"
