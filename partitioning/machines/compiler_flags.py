"""The compiler's settings that hide communication behind computation, per platform: one place.

Each was seen to change a compiled program (docs/performance.md, "Compiler flags"), or to keep the
compiler alive; none changes a result. What a user names in XLA_FLAGS or LIBTPU_INIT_ARGS stays as
it is. Read before JAX is imported: XLA reads its flags once.
"""

import importlib.util
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Literal

from gesso.partitioning.machines.tpu_metadata import attribute

Platform = Literal["cpu", "gpu", "v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x", "tpu"]

_OFFLOADED = ("all_gather", "reduce_scatter", "all_reduce")
# libtpu 0.0.42.1 overflows the stacks of its own threads on BERT's step, and dies of it.
_STACKS = ("--fibers_default_thread_stack_size=4194304", "--default_thread_stack_size=4194304")
# platform -> ({variable: flags}). A libtpu or XLA that does not know a flag ends the process, so
# only what was compiled with is here.
FLAGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Collectives run on the SparseCores while the TensorCore multiplies: of GPT-J's 68 GB per step
    # on v5p:4x4x4 none was asynchronous, with these 99 % is.
    "v5p": {
        "LIBTPU_INIT_ARGS": (
            *_STACKS,
            *(
                f"--xla_tpu_enable_sparse_core_collective_offload_{kind}=true"
                for kind in _OFFLOADED
            ),
        )
    },
    **{kind: {"LIBTPU_INIT_ARGS": _STACKS} for kind in ("v4", "v5e", "v6e", "tpu")},
    # The scheduler that starts collectives early; and XLA's own rematerialization off, which
    # computes products of activations again that were kept on purpose (a third more FLOPs).
    "gpu": {
        "XLA_FLAGS": (
            "--xla_gpu_enable_latency_hiding_scheduler=true",
            "--xla_disable_hlo_passes=rematerialization",
        )
    },
}


def apply(environ: MutableMapping[str, str], platform: Platform | None = None) -> list[str]:
    """Add the platform's flags to `environ`, but for those it names already; which were added.

    platform: this machine's by default. GESSO_COMPILER_FLAGS=none adds nothing.
    """
    if environ.get("GESSO_COMPILER_FLAGS") == "none":
        return []
    added = []
    for variable, flags in FLAGS.get(platform or here(environ), {}).items():
        asked = environ.get(variable, "")
        named = set(re.findall(r"--(\w+)", asked))
        fresh = [flag for flag in flags if flag[2:].partition("=")[0] not in named]
        if fresh:
            environ[variable] = " ".join([*filter(None, [asked]), *fresh])
        added += fresh
    return added


def here(environ: Mapping[str, str], *, devices: Path = Path("/dev")) -> Platform:
    """What JAX will find on this machine, without asking it. A TPU whose kind no variable says is
    just "tpu". devices: the folder of device files."""
    asked = environ.get("JAX_PLATFORMS", "")
    if asked.startswith("cpu"):
        return "cpu"
    if _is_installed("libtpu") and any((devices / each).exists() for each in ("accel0", "vfio/0")):
        return _kind(environ.get("TPU_ACCELERATOR_TYPE") or _accelerator_type(environ))
    cuda = any(_is_installed(f"jax_cuda{version}_plugin") for version in (12, 13))
    return "gpu" if cuda and (devices / "nvidiactl").exists() else "cpu"


def _kind(accelerator: str) -> Platform:
    """ "v5p-128" -> "v5p", "v5litepod-16" -> "v5e"."""
    known: dict[str, Platform] = {
        "v2": "v2", "v3": "v3", "v4": "v4", "v5litepod": "v5e", "v5lite": "v5e", "v5e": "v5e",
        "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x",
    }  # fmt: skip
    return known.get(accelerator.partition("-")[0], "tpu")


def _accelerator_type(environ: Mapping[str, str]) -> str:
    """What the VM's metadata server says it is; empty where it is not to be asked."""
    return "" if "TPU_SKIP_MDS_QUERY" in environ else attribute("accelerator-type") or ""


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
