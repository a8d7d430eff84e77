"""Exactly one writer per shard: a lock that dies with its holder and says who that is."""

import fcntl
import json
import os
import socket
from pathlib import Path

from gesso.data.text.rejects import BuildError


class ShardLocked(BuildError):
    """Another process is building the shard. The message says which."""


class ShardLock:
    """An exclusive flock on a file, held until `release` or the process's end, however it ends.

    Works between hosts where the file system carries flock (Linux NFS does). The file is removed on
    release, so that a finished store has none.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self.path = path
        self.what = what
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises ShardLocked, naming the holder, if another process holds the lock."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # the folder went with another builder's last lock
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, 4096, 0)
                os.close(file)
                raise ShardLocked(self._refusal(holder)) from None
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
        return (
            f"{self.what} is being built by {who}; wait for it or stop it. "
            "Several builders share the work with share=(i, n)"
        )
