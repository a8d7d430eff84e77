"""One process that meets the others of its run: hosts_worker.py START_TIMEOUT_SECONDS.

EXPERIMENT in the environment is what the processes must agree on. LATE: seconds before it starts.
ABSENT: it never does.
"""

import os
import sys
import time

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.processes import HostsDisagree, HostsMissing, start


def main(seconds: str) -> int:
    if "ABSENT" in os.environ:
        return 4
    time.sleep(float(os.environ.get("LATE", "0")))
    agreement = {"python": "3.11", "experiment": os.environ.get("EXPERIMENT", "same")}
    try:
        hosts = start(HostsConfig(start_timeout_seconds=int(seconds)), agreement=agreement)
    except (HostsDisagree, HostsMissing, ValueError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(3)
    import jax

    gathered = hosts.gather("squares", hosts.process**2, timeout_seconds=60)
    first = hosts.share("first", f"from {hosts.process}", timeout_seconds=60)
    print("met", hosts.process, hosts.count, gathered, first, jax.device_count(), flush=True)
    try:
        hosts.on_first("fails", lambda: int("x"), timeout_seconds=60)
    except ValueError as error:
        print("everywhere:", error, flush=True)
    hosts.close(20)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
