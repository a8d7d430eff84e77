"""The processes of one run: how they find each other, agree, and wait for each other."""

import contextlib
import ipaddress
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.coordination import Client, Missing, Service, Unreachable
from gesso.partitioning.hosts.scheduler import Scheduler, detect
from gesso.partitioning.machines.tpu_metadata import tpu_environment

_LEAVE_SECONDS = 3
_SHUTDOWN_SECONDS = 10  # JAX's default makes every process of a failed run wait 300 s


class HostsDisagree(ValueError):
    """Processes of one run have different software or different experiments."""


class HostsMissing(RuntimeError):
    """Processes of the run did not answer in time; starting it again may help."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """This process among `count`. client: calls to process 0's service; None with one process.

    Every method but `announce`, `wait_for` and `close` is called by all processes, in the same
    order; values are JSON. Each raises coordination.Missing (a TimeoutError that names the
    processes that did not come) or coordination.Unreachable (process 0 is gone).
    terminate_handler: Python's SIGTERM handler when the processes had met.
    """

    process: int = 0
    count: int = 1
    names: tuple[str, ...] = ("this host",)
    client: Client | None = None
    service: Service | None = None
    terminate_handler: Any = signal.SIG_DFL
    _calls: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def barrier(self, name: str, timeout_seconds: float) -> None:
        """Until all processes are here."""
        self.gather(name, None, timeout_seconds=timeout_seconds)

    def gather(self, name: str, value: Any, *, timeout_seconds: float) -> list[Any]:
        """The values of all processes, in their order."""
        if self.client is None:
            return [value]
        return self.client.gather(f"{name} {next(self._calls)}", value, timeout_seconds)

    def share(self, name: str, value: Any, *, timeout_seconds: float) -> Any:
        """The value that process 0 passes; what others pass is not looked at."""
        if self.client is None:
            return value
        key = f"{name} {next(self._calls)}"
        if self.process == 0:
            self.client.set(key, value)
            return value
        return self.client.get(key, timeout_seconds)

    def on_first(self, name: str, function: Callable[[], Any], *, timeout_seconds: float) -> Any:
        """What `function` gives when process 0 calls it. Its ValueError or OSError ends all
        processes alike: elsewhere it is a ValueError."""
        if self.client is None:
            return function()
        outcome, failure = {}, None
        if self.process == 0:
            try:
                outcome = {"value": function()}
            except (ValueError, OSError) as error:
                outcome, failure = {"error": str(error)}, error
        outcome = self.share(name, outcome, timeout_seconds=timeout_seconds)
        if failure:
            raise failure
        if "error" in outcome:
            raise ValueError(f"process 0: {outcome['error']}")
        return outcome["value"]

    def announce(self, key: str, value: Any) -> None:
        """Set a key that others wait for."""
        if self.client:
            self.client.set(key, value)

    def wait_for(self, key: str, *, timeout_seconds: float) -> Any:
        """The value of a key that another process announces. Raises TimeoutError."""
        assert self.client, "a single process has nobody to wait for"
        return self.client.get(key, timeout_seconds)

    def disconnect(self) -> None:
        """What a thread of its own that used `announce` or `wait_for` calls at its end."""
        if self.client:
            self.client.disconnect()

    def close(self, timeout_seconds: float) -> None:
        """Leave together: the end of a run that went well."""
        if self.client:
            self.barrier("end", timeout_seconds)
            with contextlib.suppress(Unreachable):
                self.client.leave(_SHUTDOWN_SECONDS)
            self.client.close()
        if self.service:
            self.service.close(_SHUTDOWN_SECONDS)


SINGLE = Hosts()


def start(config: HostsConfig, *, agreement: dict[str, str]) -> Hosts:
    """Join the run's other processes; call it before any device is used.

    `agreement`: what must be equal everywhere, such as {"python": ..., "jax": ...,
    "experiment": hash}. One process: nothing happens. Several: they meet at process 0, compare,
    and only then start jax.distributed. The coordinator's port and the one after it must be
    reachable from all hosts. Raises HostsDisagree, HostsMissing, scheduler.SchedulerError.
    """
    asked_tpu = config.scheduler in ("auto", "tpu")
    slice_variables = tpu_environment(os.environ) if asked_tpu else {}
    found = detect(slice_variables | dict(os.environ), name=config.scheduler)
    if found.count == 1:
        return SINGLE
    host, port = found.coordinator.rsplit(":", 1)
    service = None
    if found.process == 0:
        service = Service(
            (bind_host(host), int(port)),
            count=found.count,
            peer_timeout_seconds=config.peer_timeout_seconds,
        )
    client = Client((host, int(port)), process=found.process)
    try:
        everyone = _meet(client, found, config.start_timeout_seconds, agreement)
    except (HostsDisagree, HostsMissing):
        with contextlib.suppress(Unreachable):
            client.leave(_LEAVE_SECONDS)
        if service:  # not before the others have read their answers
            service.close(_LEAVE_SECONDS)
        raise
    _start_jax(found, host, int(port) + 1, config.start_timeout_seconds)
    return Hosts(
        process=found.process,
        count=found.count,
        names=tuple(each["name"] for each in everyone),
        client=client,
        service=service,
        terminate_handler=signal.getsignal(signal.SIGTERM),
    )


def bind_host(host: str) -> str:
    """The address process 0 listens on, so that nobody else's network reaches it.

    Where a real host name resolves to the loopback address on its own host, as some distributions
    set it up, the others could not connect: then all addresses.
    """
    if host == "localhost" or _is_loopback(host):
        return host
    address = socket.gethostbyname(host)
    return "0.0.0.0" if _is_loopback(address) else address


def disagreements(found: list[dict[str, Any]]) -> str:
    """What differs between processes, which have what; "" when nothing does.

    found: one {"name": host, "agreement": {...}} per process.
    """
    lines = []
    for key in sorted({key for each in found for key in each["agreement"]}):
        holders: dict[str, list[str]] = {}
        for process, each in enumerate(found):
            value = each["agreement"].get(key, "nothing")
            holders.setdefault(value, []).append(f"{process} ({each['name']})")
        if len(holders) > 1:
            ordered = sorted(holders.items(), key=lambda item: -len(item[1]))
            told = "; ".join(f"{value[:20]} on process {_some(who)}" for value, who in ordered)
            lines.append(f"  {key}: {told}")
    return "\n".join(lines)


def _meet(
    client: Client, found: Scheduler, seconds: float, agreement: dict[str, str]
) -> list[dict[str, Any]]:
    own = {"name": socket.gethostname(), "agreement": agreement}
    try:
        client.connect(seconds)
        everyone = client.gather("start", own, seconds)
    except (Missing, Unreachable) as error:
        raise HostsMissing(
            f"{found.count} processes were to meet at {found.coordinator} (by {found.name}'s"
            f" variables), this is process {found.process} on {own['name']}: {error}; look at the"
            " log of that process, and whether the port is open between the hosts"
        ) from None
    if wrong := disagreements(everyone):
        raise HostsDisagree(
            f"the processes of this run differ:\n{wrong}\ninstall the same environment and start"
            " the same command on all hosts"
        )
    return everyone


def _start_jax(found: Scheduler, host: str, port: int, seconds: int) -> None:
    import jax

    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # the default has none
    jax.distributed.initialize(
        coordinator_address=f"{host}:{port}",
        num_processes=found.count,
        process_id=found.process,
        local_device_ids=found.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=100,  # the supervisor is faster and says more
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        coordinator_bind_address=f"{bind_host(host)}:{port}",
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
