"""The mesh and the hosts as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass
from typing import Literal

AXES = ("replica", "data", "fsdp", "sequence", "tensor")
LayoutName = Literal["replicated", "fsdp", "tensor", "fsdp_tensor"]


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many ways each mesh axis splits the devices; one axis may be -1, "what remains".

    replica: copies of everything across slices (data-centre network). data: copies inside a slice.
    fsdp: copies whose parameters and optimizer state are split. sequence: the length of a row is
    split. tensor: heads, mlp and vocab are split.
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> dict[str, int]:
        """{axis: size} for this many devices. Raises ValueError when they cannot be laid out."""
        asked = {axis: getattr(self, axis) for axis in AXES}
        if bad := {axis: n for axis, n in asked.items() if n == 0 or n < -1}:
            raise ValueError(f"mesh axis sizes must be positive, or -1 for one of them: {bad}")
        open_axes = [axis for axis, n in asked.items() if n == -1]
        if len(open_axes) > 1:
            raise ValueError(f"only one mesh axis may be -1, not {' and '.join(open_axes)}")
        known = 1
        for n in asked.values():
            known *= max(n, 1)
        spelled = " x ".join(f"{axis}={n}" for axis, n in asked.items() if n != 1) or "1 device"
        if open_axes and devices % known == 0:
            return asked | {open_axes[0]: devices // known}
        if not open_axes and known == devices:
            return asked
        raise ValueError(
            f"mesh {spelled} does not lay out over {devices} device(s); the sizes must multiply to"
            f" {devices}: set one axis to -1 to take what remains"
        )


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """How the processes of one run find each other, and when a silent one is given up."""

    scheduler: Literal["auto", "single", "env", "slurm", "jobset", "tpu"] = "auto"
    start_timeout_seconds: int = 300
    peer_timeout_seconds: int = 30
    hang_timeout_seconds: int = 1800
