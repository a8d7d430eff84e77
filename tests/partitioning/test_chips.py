"""The one table of chips: a device's peak, and what a plan knows."""

from dataclasses import dataclass

import pytest

from gesso.partitioning.machines.chips import (
    CHIPS,
    chip,
    model_flops_utilization,
    peak_flops,
    plannable,
)


@dataclass(frozen=True)
class Named:
    """What stands for a jax.Device."""

    device_kind: str


# FLOP/s of one jax.Device, by the names that JAX gives them.
PEAKS = {
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
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


@pytest.mark.parametrize(("kind", "peak"), PEAKS.items())
def test_the_peak_of_a_device_is_its_part_of_its_chips(kind, peak):
    device = Named(kind)
    assert peak_flops(device) == peak
    assert model_flops_utilization(1e9, peak / 2e9, [device]) == 0.5


def test_an_unknown_device_has_no_peak_and_no_utilization():
    device = Named("cpu")
    assert peak_flops(device) is None
    assert model_flops_utilization(1e9, 1e3, [device, device]) is None


def test_a_plan_is_made_only_for_chips_with_all_figures():
    assert plannable() == ["v4", "v5e", "v5p", "v6e", "a100", "h100", "h200", "b200"]
    for kind in plannable():
        each = chip(kind)
        assert min(each.flops, each.memory, each.memory_rate, each.link_rate) > 0
        assert each.network_rate > 0
    with pytest.raises(ValueError, match="no data sheet of a chip 'v2'; known: v4"):
        chip("v2")
    assert CHIPS["v2"].flops == 45e12
