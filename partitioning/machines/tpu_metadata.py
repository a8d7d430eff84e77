"""What a Cloud TPU VM knows about its slice where no scheduler has set the variables."""

import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

_ATTRIBUTES = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_SECONDS = 2.0


def tpu_environment(
    environ: Mapping[str, str], *, fetch: Callable[[str], str | None] | None = None
) -> dict[str, str]:
    """The variables that GKE would have set (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES, MEGASCALE_...),
    from the VM's metadata server; empty off TPUs, or where `environ` says it already.

    fetch: attribute name -> its text, or None; the metadata server by default.
    """
    if fetch is None:
        if "TPU_WORKER_HOSTNAMES" in environ or "TPU_SKIP_MDS_QUERY" in environ:
            return {}
        if "cpu" in environ.get("JAX_PLATFORMS", "") or not _has_tpus():
            return {}
        fetch = attribute
    worker, endpoints = fetch("agent-worker-number"), fetch("worker-network-endpoints")
    if worker is None or not endpoints:
        return {}
    # an endpoint is an address, or NAME:ID:ADDRESS on older images
    addresses = [each.split(":")[-1] for each in endpoints.strip().split(",")]
    found = {"TPU_WORKER_ID": worker.strip(), "TPU_WORKER_HOSTNAMES": ",".join(addresses)}
    for line in (fetch("tpu-env") or "").splitlines():
        if match := re.fullmatch(r"\s*(MEGASCALE_\w+)\s*:\s*'?([^']*)'?\s*", line):
            found[match[1]] = match[2]
    return found


def _has_tpus() -> bool:
    devices = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices and importlib.util.find_spec("libtpu") is not None


def attribute(name: str) -> str | None:
    """What the VM's metadata server says of one of its attributes; None where there is none."""
    request = urllib.request.Request(_ATTRIBUTES + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError, OSError):
        return None
