"""What accelerators can do at best, from their makers' data sheets: plans divide by it, and MFU is
the share of it that a run uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gesso.settings.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip. Rates are per second and at their dense, published peak.

    kinds: what jax.Device.device_kind contains, one of them. flops: bfloat16. memory: bytes a
    program may use (measured: what the compiler refuses beyond, where we know it; else the
    published size). memory_rate: bytes. link_rate: bytes that one chip sends to its neighbours over
    all its links (TPU: interconnect; GPU: NVLink). network_rate: bytes per chip between slices or
    machines. cycles: the clock that turns the compiler's cycle counts into seconds; 0: it gives
    none. devices: jax.Devices per chip, each with its part of the flops.

    Without memory and rates a run's MFU is known, but no plan is made.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    memory: float = 0.0
    memory_rate: float = 0.0
    link_rate: float = 0.0
    network_rate: float = 0.0
    cycles: float = 0.0
    devices: int = 1


class Device(Protocol):
    """A jax.Device, or what stands for one."""

    @property
    def device_kind(self) -> str: ...


GIB = 2.0**30
# Sources: cloud.google.com/tpu/docs (the system pages of v4, v5e, v5p and v6e) and NVIDIA's data
# sheets of A100, H100, H200 and B200. network_rate: 100 Gbit/s per TPU host of 4 to 8 chips, 400
# Gbit/s per GPU. cycles: peak / (matrix operations per cycle).
CHIPS = {
    "v2": Chip(name="TPU v2", kinds=("TPU v2",), flops=45e12, devices=2),
    "v3": Chip(name="TPU v3", kinds=("TPU v3",), flops=123e12, devices=2),
    "v4": Chip(
        name="TPU v4",
        kinds=("TPU v4",),
        flops=275e12,
        memory=30.75 * GIB,
        memory_rate=1.2e12,
        link_rate=300e9,
        network_rate=3.1e9,
        cycles=1.05e9,
    ),
    "v5e": Chip(
        name="TPU v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        flops=197e12,
        memory=15.75 * GIB,
        memory_rate=819e9,
        link_rate=200e9,
        network_rate=3.1e9,
        cycles=1.5e9,
    ),
    "v5p": Chip(
        name="TPU v5p",
        kinds=("TPU v5p", "TPU v5"),
        flops=459e12,
        memory=95.74 * GIB,
        memory_rate=2.765e12,
        link_rate=600e9,
        network_rate=6.2e9,
        cycles=1.75e9,
    ),
    "v6e": Chip(
        name="TPU v6e",
        kinds=("TPU v6 lite", "TPU v6e"),
        flops=918e12,
        memory=31.25 * GIB,
        memory_rate=1.64e12,
        link_rate=400e9,
        network_rate=6.2e9,
        cycles=1.75e9,
    ),
    "v7x": Chip(name="TPU v7x", kinds=("TPU7x",), flops=2307e12, devices=2),
    "a100": Chip(
        name="A100 80GB",
        kinds=("A100",),
        flops=312e12,
        memory=79.0 * GIB,
        memory_rate=2.039e12,
        link_rate=300e9,
        network_rate=25e9,
    ),
    "h100-pcie": Chip(name="H100 PCIe", kinds=("H100 PCIe",), flops=756e12),
    "h100": Chip(
        name="H100 SXM",
        kinds=("H100",),
        flops=989e12,
        memory=79.0 * GIB,
        memory_rate=3.35e12,
        link_rate=450e9,
        network_rate=50e9,
    ),
    "h200": Chip(
        name="H200",
        kinds=("H200",),
        flops=989e12,
        memory=139.0 * GIB,
        memory_rate=4.8e12,
        link_rate=450e9,
        network_rate=50e9,
    ),
    "b200": Chip(
        name="B200",
        kinds=("B200",),
        flops=2250e12,
        memory=179.0 * GIB,
        memory_rate=8.0e12,
        link_rate=900e9,
        network_rate=50e9,
    ),
}


def chip(kind: str) -> Chip:
    """The chip of a topology's name before the colon. ValueError with the nearest ones."""
    known = plannable()
    if kind in known:
        return CHIPS[kind]
    hint = did_you_mean(kind, known, most=2, show=str, otherwise=f"known: {', '.join(known)}")
    raise ValueError(f"no data sheet of a chip {kind!r}{hint}")


def plannable() -> list[str]:
    """The names of the chips that a plan can be made for."""
    return [kind for kind, each in CHIPS.items() if each.memory]


def peak_flops(device: Device) -> float | None:
    """Peak FLOP/s of one device, or None for a CPU or a chip that is not in the table."""
    asked, length, peak = device.device_kind.lower(), 0, None
    for each in CHIPS.values():
        for kind in each.kinds:
            # The longest name that fits: "TPU v5" is a v5p, "TPU v5 lite" a v5e.
            if kind.lower() in asked and len(kind) > length:
                length, peak = len(kind), each.flops / each.devices
    return peak


def model_flops_utilization(
    flops_per_token: float, tokens_per_second: float, devices: Sequence[Device]
) -> float | None:
    """MFU in [0, 1]: model FLOPs per second over the mesh's peak; None for an unknown chip.

    `flops_per_token` is models.count.flops_per_token (PaLM's convention, causal attention counted
    once); recomputation does not count as work.
    """
    peak = peak_flops(devices[0])
    return None if peak is None else flops_per_token * tokens_per_second / (peak * len(devices))
