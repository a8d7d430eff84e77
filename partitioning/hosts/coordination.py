"""What the processes of a run tell each other: one small service in process 0, deadlines on all.

JAX has such a service inside, but none of its public interface reaches it, its calls have no
deadline, and it cannot say which process is missing. Messages are JSON, one line each.
"""

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

_LONGEST = 64 << 20  # bytes of a line; the longest real ones list what every process runs
_BEAT_SECONDS = 0.5  # a beat is answered after this, or at once when another process has failed
_GRACE = 5.0  # seconds that an answer may come after the deadline it was asked to keep


class Unreachable(ConnectionError):
    """Process 0 does not answer: its process ended, its host is lost, or the network is cut."""


class Missing(TimeoutError):
    """Some processes did not come in time. missing: their numbers."""

    def __init__(self, what: str, missing: list[int], seconds: float) -> None:
        named = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
        several = f"{len(missing)} processes" if len(missing) > 1 else "process"
        super().__init__(f"{what}: {several} {named} did not answer in {seconds:.0f} s")
        self.missing = missing


class _Connection(threading.local):
    """A thread's own connection to the service; None until its first call."""

    stream: io.BufferedRWPair | None = None
    connection: socket.socket


class Client:
    """Calls to the service, each with a deadline. Usable from any thread: each has its own
    connection, and the service sees which ones belong to one process by their token.

    Every method raises Unreachable, and ValueError for what the service refuses.
    """

    def __init__(self, address: tuple[str, int], *, process: int) -> None:
        self._address, self._process, self._token = address, process, uuid.uuid4().hex
        self._local = _Connection()
        self._open: list[tuple[socket.socket, Any]] = []

    def connect(self, timeout_seconds: float) -> None:
        """Try until the service answers."""
        deadline, last = time.monotonic() + timeout_seconds, None
        while time.monotonic() < deadline:
            try:
                self._call(2.0, op="hello")
                return
            except Unreachable as error:
                last = error
                time.sleep(0.2)
        raise Unreachable(f"{last} for {timeout_seconds:.0f} s")

    def set(self, key: str, value: Any) -> None:
        """Set a key, and wake who waits for it."""
        self._call(30.0, op="set", key=key, value=value)

    def get(self, key: str, timeout_seconds: float) -> Any:
        """The value of a key as soon as it is set. Raises TimeoutError."""
        answer = self._call(timeout_seconds + _GRACE, op="get", key=key, seconds=timeout_seconds)
        if "value" not in answer:
            raise TimeoutError(f"nobody set {key!r} in {timeout_seconds:.0f} s")
        return answer["value"]

    def gather(self, name: str, value: Any, timeout_seconds: float) -> list[Any]:
        """The values of all processes, in their order. Raises Missing."""
        answer = self._call(
            timeout_seconds + _GRACE, op="gather", name=name, value=value, seconds=timeout_seconds
        )
        if "missing" in answer:
            raise Missing(name, answer["missing"], timeout_seconds)
        return answer["values"]

    def beat(self, *, phase: str, progress: int, timeout_seconds: float) -> dict[str, Any] | None:
        """Say that this process lives, and how often it went on; the first failure of another one,
        if any. Takes half a second, or less when there is one."""
        answer = self._call(timeout_seconds, op="beat", phase=phase, progress=progress)
        return answer["failure"]

    def fail(self, record: dict[str, Any], timeout_seconds: float) -> str:
        """Say why this process ends. Which process is behind all others, if one is."""
        return self._call(timeout_seconds, op="fail", record=record)["behind"]

    def leave(self, timeout_seconds: float) -> None:
        """Say that this process ends as it should; its silence is no failure from now on."""
        self._call(timeout_seconds, op="leave")

    def disconnect(self) -> None:
        """Close this thread's connection; a thread that ends while others go on calls it last."""
        if stream := self._local.stream:
            self._local.stream = None
            self._shut(self._local.connection, stream)

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection, stream in list(self._open):
            self._shut(connection, stream)

    def _shut(self, connection: socket.socket, stream: Any) -> None:
        with contextlib.suppress(ValueError):  # another thread was here first
            self._open.remove((connection, stream))
        with contextlib.suppress(OSError, ValueError):
            connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, ValueError):
            stream.close()
        connection.close()

    def _call(self, limit: float, /, **message: Any) -> dict[str, Any]:
        host, port = self._address
        try:
            stream = self._local.stream
            if stream is None:
                connection = socket.create_connection(self._address, timeout=min(limit, 10))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = self._local.stream = connection.makefile("rwb")
                self._local.connection = connection
                self._open.append((connection, stream))
            self._local.connection.settimeout(limit)
            message |= {"process": self._process, "token": self._token}
            stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()
            line = stream.readline(_LONGEST)
            if not line.endswith(b"\n"):
                raise ConnectionError("the connection was closed")
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            self.disconnect()
            reason = str(error) or type(error).__name__
            raise Unreachable(f"process 0 does not answer at {host}:{port} ({reason})") from error
        answer = json.loads(line)
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer


@dataclass
class _Gather:
    values: dict[int, Any] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answered: int = 0


class Service:
    """The service, in a thread of process 0. `peer_timeout_seconds`: after how much silence a
    process that has sent beats counts as lost; one whose connection closes is lost at once."""

    def __init__(self, address: tuple[str, int], *, count: int, peer_timeout_seconds: float):
        self._count, self._peer_timeout = count, peer_timeout_seconds
        self._keys: dict[str, Any] = {}
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        self._gathers: dict[str, _Gather] = {}
        self._tokens: dict[int, str] = {}
        self._beats: dict[int, float] = {}
        self._places: dict[int, tuple[int, str]] = {}  # process -> (progress, phase)
        self._left: set[int] = set()
        self._failures: list[dict[str, Any]] = []
        self._failed = asyncio.Event()
        self._socket = socket.create_server(address, backlog=4096)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="coordination", daemon=True)
        self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Wait until all processes have left, or the timeout, then stop."""
        deadline = time.monotonic() + timeout_seconds
        while len(self._left) < self._count and time.monotonic() < deadline:
            time.sleep(0.02)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, sock=self._socket, limit=_LONGEST)
        )
        watch = self._loop.create_task(self._watch_silence())
        self._loop.run_forever()
        watch.cancel()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beats_of = None
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if message["op"] == "beat":
                    beats_of = message["process"]
                answer = await self._answer(message)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, KeyError, TypeError, asyncio.CancelledError):
            pass  # a peer that died, what does not speak this protocol, or our own end
        finally:
            if beats_of is not None:
                self._lose(beats_of, "its process ended (killed, or out of memory)")
            writer.close()

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        process, token = message["process"], message["token"]
        known = self._tokens.setdefault(process, token)
        if known != token:
            return {"refused": f"two processes of this run say that they are process {process}"}
        if not 0 <= process < self._count:
            return {"refused": f"process {process} joined a run of {self._count} processes"}
        match message["op"]:
            case "set":
                self._keys[message["key"]] = message["value"]
                for future in self._waiting.pop(message["key"], []):
                    if not future.done():
                        future.set_result(message["value"])
            case "get":
                return await self._get(message["key"], message["seconds"])
            case "gather":
                return await self._gather(message)
            case "beat":
                self._beats[process] = time.monotonic()
                self._places[process] = (message["progress"], message["phase"])
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._failed.wait(), _BEAT_SECONDS)
                others = [each for each in self._failures if each["process"] != process]
                return {"failure": others[0] if others else None}
            case "fail":
                self._left.add(process)
                behind = self._behind()
                self._failures.append(message["record"] | {"behind": behind})
                self._failed.set()
                return {"behind": behind}
            case "leave":
                self._left.add(process)
        return {}

    async def _get(self, key: str, seconds: float) -> dict[str, Any]:
        if key in self._keys:
            return {"value": self._keys[key]}
        future = self._loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        try:
            return {"value": await asyncio.wait_for(future, seconds)}
        except TimeoutError:
            return {}

    async def _gather(self, message: dict[str, Any]) -> dict[str, Any]:
        name = message["name"]
        gathered = self._gathers.setdefault(name, _Gather())
        gathered.values[message["process"]] = message["value"]
        if len(gathered.values) == self._count:
            gathered.over.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gathered.over.wait(), message["seconds"])
        gathered.over.set()  # the first deadline ends it for all, so that all hear the same
        missing = sorted(set(range(self._count)) - gathered.values.keys())
        gathered.answered += 1
        if gathered.answered == self._count:
            del self._gathers[name]
        if missing:
            return {"missing": missing}
        return {"values": [gathered.values[each] for each in range(self._count)]}

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._peer_timeout / 4))
            now = time.monotonic()
            for process, last in list(self._beats.items()):
                if now - last > self._peer_timeout:
                    self._lose(
                        process,
                        f"no sign of life for {self._peer_timeout:.0f} s (host lost, frozen, or"
                        " network cut)",
                    )

    def _lose(self, process: int, why: str) -> None:
        if process in self._left:
            return
        self._left.add(process)
        _, phase = self._places.get(process, (0, "start"))
        record = {"process": process, "phase": phase, "error": why, "behind": ""}
        self._failures.append(record)
        self._failed.set()

    def _behind(self) -> str:
        """The processes that others wait for: in a hang, the ones that went on the least often."""
        least = min((progress for progress, _ in self._places.values()), default=0)
        found = {p: phase for p, (progress, phase) in self._places.items() if progress == least}
        if len(found) == len(self._places):
            return ""
        named = [f"process {p} in phase {phase}" for p, phase in sorted(found.items())[:5]]
        return "behind the others: " + ", ".join(named)
