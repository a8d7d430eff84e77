"""At most one run writes to a folder: a lease that its holder renews and others can take over."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "run.lock"
# What the lock's file says of its holder.
Record = dict[str, Any]


class LockHeld(ValueError):
    """Another run writes to the folder. Nothing was touched."""


class LockLost(RuntimeError):
    """This run stood still for so long that another one took its folder."""


class RunLock:
    """The lock of a run folder, FOLDER/run.lock.

    The holder rewrites the file every `beat_seconds`. Who wants it watches the file for
    `stale_seconds` of its own monotonic clock: no wall clock, no clock of another host. A holder
    on the same host whose process is gone is replaced at once.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        beat_seconds: float = 2.0,
        stale_seconds: float = 15.0,
    ) -> None:
        assert stale_seconds > 2 * beat_seconds
        self._path = Path(folder) / NAME
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        self._token, self._beats = uuid.uuid4().hex, 0
        self._stop, self._lost = threading.Event(), ""
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock. Raises LockHeld with the host and process id of who has it."""
        if not self._create():
            found = self._wait_until_stale()
            with _alone(self._path.parent):
                self._remove_if(found)
                created = self._create()
            if not created:
                raise self._refusal(self._read())
        self._thread = threading.Thread(target=self._keep, name="run lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LockLost unless the file is this run's; reads it. Call before writing."""
        for _ in range(4):
            record = self._read()
            if record and record.get("token") == self._token:
                return
            if record:
                break
            time.sleep(0.1)  # who removes a stale lock puts ours back if we were faster
        self._lost = f"held by {_who(record)}" if record else "the file is gone"
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """Raise LockLost if the last renewal found the lock lost; reads nothing."""
        if self._lost:
            raise LockLost(
                f"this run lost {self._path} ({self._lost}): it stood still for more than"
                f" {self._stale_seconds:.0f} s, or the file was removed; it stops without writing"
            )

    def release(self) -> None:
        """Give the lock back, if it is still this run's."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(LockLost, FileNotFoundError):
            self.check()
            self._path.unlink()

    def _keep(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            try:
                self.check()
                self._write()
            except LockLost:
                return
            except OSError:  # a full or absent disk is for those who write to report
                continue

    def _create(self) -> bool:
        """Create the file; False when there is one."""
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as f:
            f.write(self._record())
        return True

    def _write(self) -> None:
        self._beats += 1
        own = self._path.with_name(f"{NAME}.{self._token}")
        own.write_text(self._record())
        own.replace(self._path)

    def _wait_until_stale(self) -> Record | None:
        """Watch the lock until it has not moved for stale_seconds. Raises LockHeld once it does."""
        first, began = self._read(), time.monotonic()
        while not _is_dead(first) and time.monotonic() - began < self._stale_seconds:
            time.sleep(self._beat_seconds / 4)
            now = self._read()
            if now is None:
                return None
            if now != first:
                raise self._refusal(now)
        return first

    def _remove_if(self, found: Record | None) -> None:
        """Remove the lock that holds `found`; one that holds anything else is put back."""
        aside = self._path.with_name(f"{NAME}.{self._token}.stale")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        now = _parse(aside)
        if now != found:
            with contextlib.suppress(OSError):
                os.link(aside, self._path)
        aside.unlink()
        if now != found:
            raise self._refusal(now)

    def _refusal(self, record: Record | None) -> LockHeld:
        return LockHeld(
            f"another run writes to {self._path.parent}: {_who(record)}; wait for it or stop it, or"
            " use another folder"
        )

    def _record(self) -> str:
        return json.dumps({"token": self._token, "beats": self._beats, **_self()})

    def _read(self) -> Record | None:
        return _parse(self._path)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[RunLock]:
    """The lock of a run folder, which is made where it is not there, until the context is left.
    Raises LockHeld."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def _parse(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _who(record: Record | None) -> str:
    if not record:
        return "an unknown process"
    return f"host {record.get('host')}, process id {record.get('process_id')}"


def _self() -> Record:
    return {
        "host": socket.gethostname(),
        "process_id": os.getpid(),
        "started": _start_time(os.getpid()),
        "kernel": _kernel(),
    }


def _is_dead(record: Record | None) -> bool:
    """Whether the holder ran under this kernel and has ended. False where that is not known."""
    if not record or not _kernel() or record.get("kernel") != _kernel():
        return False
    return _start_time(record.get("process_id", 0)) != record.get("started")


def _kernel() -> str:
    """This boot of this machine, as this container sees processes; "" where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(process_id: int) -> str:
    """When a process started, in ticks since boot, or "" if it is gone or only a zombie."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
    return "" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One taker at a time where the file system knows flock; elsewhere the rename decides."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
