"""The mesh and the hosts as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass, field
from typing import Literal, get_args

AXES = ("replica", "data", "fsdp", "sequence", "tensor")
Phase = Literal["start", "data", "restore", "compile", "step", "save", "evaluate", "report"]
PHASES = get_args(Phase)
LayoutName = Literal["replicated", "fsdp", "tensor", "fsdp_tensor", "fsdp_optimizer"]


# Over which mesh axes a layout splits the parameters at rest, and what the optimizer keeps of them
# (partitioning/layouts.py says which letters).
PARAMETERS_OVER: dict[LayoutName, tuple[str, ...]] = {
    "replicated": (),
    "fsdp": ("fsdp",),
    "tensor": ("tensor",),
    "fsdp_tensor": ("fsdp", "tensor"),
    "fsdp_optimizer": (),
}
OPTIMIZER_OVER = PARAMETERS_OVER | {"fsdp_optimizer": ("fsdp",)}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many ways each mesh axis splits the devices; one axis may be -1, for all devices that
    remain."""

    replica: int = 1
    """Copies of everything across slices (data-centre network)."""
    data: int = -1
    """Copies of everything inside a slice; -1 = all that remain."""
    fsdp: int = 1
    """Copies whose parameters and optimizer state are split. Each has rows of its own; in layout
    fsdp_optimizer the optimizer state alone is split. Raise it when the state does not fit on one
    device."""
    sequence: int = 1
    """Ways the length of a row is split; raise it for rows that do not fit on one device."""
    tensor: int = 1
    """Ways that heads, mlp and vocab are split. Keep it inside one fast network."""

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
        near = _nearest(asked, devices)
        raise ValueError(
            f"mesh {spelled} does not lay out over {devices} device(s); the sizes must multiply to"
            f" {devices}: "
            + (f"try {near}, or " if near else "")
            + "set one axis to -1 to take what remains"
        )


def _nearest(asked: dict[str, int], devices: int) -> str:
    """The nearest size of one axis with which the others lay out, below and above; "" for none."""
    choices = []
    for axis, n in asked.items():
        rest = 1
        for other, m in asked.items():
            rest *= max(m, 1) if other != axis else 1
        if n < 1 or devices % rest:
            continue
        left = devices // rest
        takes = -1 in asked.values()
        sizes = [m for m in range(1, left + 1) if left % m == 0] if takes else [left]
        below = [m for m in sizes if m <= n][-1:]
        above = [m for m in sizes if m > n][:1]
        choices += [(abs(m - n), f"--mesh.{axis} {m}") for m in (*below, *above)]
    nearest = sorted(choices)[:3]
    return " or ".join(text for _, text in nearest)


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """How the processes of one run find each other, and when a silent one is given up."""

    scheduler: Literal["auto", "single", "env", "slurm", "jobset", "tpu"] = "auto"
    """Environment that names the run's processes: "auto" takes the first of env, jobset, tpu and
    slurm whose variables are set, else "single"."""
    start_timeout_seconds: int = 300
    """Seconds to wait at the start for all processes to be there."""
    peer_timeout_seconds: int = 30
    """Seconds of silence after which another process counts as lost (one that is killed is noticed
    at once)."""
    hang_timeout_seconds: int = 1800
    """Seconds that any phase of this process may take without progress; 0 = no limit."""
    phase_timeout_seconds: dict[Phase, int] = field(
        default_factory=lambda: {"compile": 7200, "restore": 7200, "evaluate": 7200}
    )
    """Seconds that a phase may take instead, by phase: start, data, restore, compile, step, save,
    evaluate, report."""

    def __post_init__(self) -> None:
        if unknown := self.phase_timeout_seconds.keys() - set(PHASES):
            raise ValueError(
                f"no phase is called {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}"
            )
