"""What accelerators can do at best, from their makers' data sheets: what a plan divides by."""

from dataclasses import dataclass

from gesso.settings.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip. Rates are per second and at their dense, published peak.

    flops: bfloat16. memory: bytes a program may use (measured: what the compiler refuses beyond,
    where we know it; else the published size). memory_rate: bytes. link_rate: bytes that one chip
    sends to its neighbours over all its links (TPU: interconnect; GPU: NVLink). network_rate: bytes
    per chip between slices or machines. cycles: the clock that turns the compiler's cycle counts
    into seconds; 0: it gives none. devices: jax.Devices per chip.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    network_rate: float
    cycles: float = 0.0
    devices: int = 1


GIB = 2.0**30
# Sources: cloud.google.com/tpu/docs (the system pages of v4, v5e, v5p and v6e) and NVIDIA's data
# sheets of A100, H100, H200 and B200. network_rate: 100 Gbit/s per TPU host of 4 to 8 chips, 400
# Gbit/s per GPU. cycles: peak / (matrix operations per cycle).
CHIPS = {
    "v4": Chip(
        name="TPU v4",
        flops=275e12,
        memory=30.75 * GIB,
        memory_rate=1.2e12,
        link_rate=300e9,
        network_rate=3.1e9,
        cycles=1.05e9,
    ),
    "v5e": Chip(
        name="TPU v5e",
        flops=197e12,
        memory=15.75 * GIB,
        memory_rate=819e9,
        link_rate=200e9,
        network_rate=3.1e9,
        cycles=1.5e9,
    ),
    "v5p": Chip(
        name="TPU v5p",
        flops=459e12,
        memory=95.74 * GIB,
        memory_rate=2.765e12,
        link_rate=600e9,
        network_rate=6.2e9,
        cycles=1.75e9,
    ),
    "v6e": Chip(
        name="TPU v6e",
        flops=918e12,
        memory=31.25 * GIB,
        memory_rate=1.64e12,
        link_rate=400e9,
        network_rate=6.2e9,
        cycles=1.75e9,
    ),
    "a100": Chip(
        name="A100 80GB",
        flops=312e12,
        memory=79.0 * GIB,
        memory_rate=2.039e12,
        link_rate=300e9,
        network_rate=25e9,
    ),
    "h100": Chip(
        name="H100 SXM",
        flops=989e12,
        memory=79.0 * GIB,
        memory_rate=3.35e12,
        link_rate=450e9,
        network_rate=50e9,
    ),
    "h200": Chip(
        name="H200",
        flops=989e12,
        memory=139.0 * GIB,
        memory_rate=4.8e12,
        link_rate=450e9,
        network_rate=50e9,
    ),
    "b200": Chip(
        name="B200",
        flops=2250e12,
        memory=179.0 * GIB,
        memory_rate=8.0e12,
        link_rate=900e9,
        network_rate=50e9,
    ),
}


def chip(kind: str) -> Chip:
    """The chip of a topology's name before the colon. ValueError with the nearest ones."""
    if kind in CHIPS:
        return CHIPS[kind]
    hint = did_you_mean(kind, CHIPS, most=2, show=str, otherwise=f"known: {', '.join(CHIPS)}")
    raise ValueError(f"no figures of a chip {kind!r}{hint}")
