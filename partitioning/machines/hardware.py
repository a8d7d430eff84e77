"""What the chips can do at best: dense bfloat16 peaks, and the share of them a run uses (MFU)."""

from typing import Any

# FLOP/s per jax.Device in bfloat16, dense, from the makers' data sheets. Matched as substrings of
# Device.device_kind, the longest first. v2, v3 and v7x devices are one core of two a chip has.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def peak_flops(device: Any) -> float | None:
    """Peak FLOP/s of one device, or None for one we have no figure of (a CPU, a new chip)."""
    for kind in sorted(PEAK_FLOPS, key=len, reverse=True):
        if kind.lower() in device.device_kind.lower():
            return PEAK_FLOPS[kind]
    return None


def model_flops_utilization(
    flops_per_token: float, tokens_per_second: float, devices: list[Any]
) -> float | None:
    """MFU in [0, 1]: model FLOPs per second over the mesh's peak; None for an unknown chip.

    `flops_per_token` is models.count.flops_per_token (PaLM's convention, causal attention counted
    once); recomputation does not count as work.
    """
    peak = peak_flops(devices[0])
    return None if peak is None else flops_per_token * tokens_per_second / (peak * len(devices))
