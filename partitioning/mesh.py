"""From settings to a device mesh with named, ordered, Auto axes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from gesso.partitioning.config import AXES, MeshConfig

BATCH_AXES = ("replica", "data", "fsdp")


def make_mesh(config: MeshConfig, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (replica, data, fsdp, sequence, tensor) over `devices`, all of them by default.

    On TPU the device order follows the interconnect. Raises ValueError when the sizes do not
    multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    shape = tuple(sizes[axis] for axis in AXES)
    # Only TPUs have slices.
    slices = {device.slice_index if hasattr(device, "slice_index") else 0 for device in devices}
    if len(slices) > 1 and sizes["replica"] % len(slices) == 0:
        across = (len(slices), 1, 1, 1, 1)
        within = (sizes["replica"] // len(slices), *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            within,
            across,
            devices=devices,
            allow_split_physical_axes=devices[0].platform == "tpu",
        )
    else:
        grid = mesh_utils.create_device_mesh(
            shape, devices=devices, allow_split_physical_axes=devices[0].platform == "tpu"
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_splits(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def settle(tree: Any) -> Any:
    """`tree`, waited for where its arrays lie on several CPU devices; elsewhere at once.

    XLA's CPU devices share one small pool of threads. Of two programs in flight each can hold
    threads that the other's collectives wait for, and XLA ends the process after 40 s.
    """
    for leaf in jax.tree.leaves(tree):
        devices = leaf.sharding.device_set
        if len(devices) > 1 and next(iter(devices)).platform == "cpu":
            jax.block_until_ready(leaf)
    return tree
