"""The processes of one run: how they find each other, agree, and wait for each other."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from partitioning.config import HostsConfig
from partitioning.scheduler import detect


class HostsDisagree(ValueError):
    """Processes of one run have different software or different experiments."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """This process among `count`. client: the connection to process 0; None with one process.

    Every method but `announce` and `wait_for` is called by all processes, in the same order.
    Values are JSON.
    """

    process: int = 0
    count: int = 1
    client: Any = None

    def barrier(self, name: str, timeout_seconds: float) -> None:
        """Until all processes are here."""

    def gather(self, name: str, value: Any, *, timeout_seconds: float) -> list[Any]:
        """The values of all processes, in their order."""
        return [value]

    def share(self, name: str, value: Any, *, timeout_seconds: float) -> Any:
        """The value of process 0."""
        return value

    def on_first(self, name: str, function: Callable[[], Any], *, timeout_seconds: float) -> Any:
        """What `function` gives when process 0 calls it; its ValueError or OSError everywhere."""
        return function()

    def announce(self, key: str, value: Any) -> None:
        """Set a key that others wait for."""

    def wait_for(self, key: str, *, timeout_seconds: float) -> Any:
        """The value of a key, once it is set."""


SINGLE = Hosts()


def start(config: HostsConfig, *, agreement: dict[str, str]) -> Hosts:
    """Join the run's other processes; call it before any device is used."""
    found = detect(os.environ, name=config.scheduler)
    assert found.count == 1
    return SINGLE
