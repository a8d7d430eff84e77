"""The machines a plan is for: a TPU topology by libtpu's name, a number of GPUs, or this CPU."""

import os
import re
from dataclasses import dataclass
from typing import Any

from gesso.partitioning.machines import compiler_flags
from gesso.partitioning.machines.chips import Chip, chip
from gesso.partitioning.machines.slices import check_shape, near, of_type


@dataclass(frozen=True, kw_only=True)
class Topology:
    """name: as asked, "v5e:16x16", "h200:8" or "cpu:8". chip: None for the CPU."""

    name: str
    chip: Chip | None
    slices: int
    devices: int

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def shape(self) -> str:
        return self.name.partition(":")[2]

    @property
    def compiles(self) -> bool:
        """Whether a program for it can be compiled here, without the machine."""
        return self.chip is None or self.name.startswith("v")

    @property
    def chips(self) -> int:
        return self.devices // (self.chip.devices if self.chip else 1)


def topology(name: str, *, slices: int = 1) -> Topology:
    """ "v5e:16x16" (TPU), "h200:8" (GPUs of one kind) or "cpu:8" -> its chip and device count.

    Raises ValueError for a kind or a spelling that is not known, with the nearest one.
    """
    kind, _, shape = name.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        here = of_type(name)
        meant = f"it is {here} here" if here else "for example v5e:16x16, v5p:4x4x4, v6e:8x8"
        raise ValueError(
            f"topology {name!r} is not KIND:SHAPE; {meant} (TPU slices as libtpu names them), or"
            " h200:8 (a number of GPUs)"
        )
    if slices < 1:
        raise ValueError(f"there is at least 1 slice, not {slices}")
    made = None if kind == "cpu" else chip(kind)
    if made is not None:
        check_shape(kind, shape)
    count = slices
    for each in shape.split("x"):
        count *= int(each)
    if count < 1:
        raise ValueError(f"topology {name!r} has no device")
    return Topology(
        name=name, chip=made, slices=slices, devices=count * (made.devices if made else 1)
    )


def describe(where: Topology) -> list[Any]:
    """The jax devices of a topology that nothing here has: programs can be compiled for them.

    Must be called before JAX was used. Raises ValueError where libtpu is missing or does not know
    the shape; for the CPU, where the process has too few virtual devices.
    """
    if where.kind != "cpu":
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        # Planned as it runs.
        compiler_flags.apply(os.environ, where.kind)  # pyright: ignore[reportArgumentType]
    import jax

    if where.kind == "cpu":
        if len(jax.devices("cpu")) < where.devices:
            raise ValueError(
                f"this process has {len(jax.devices('cpu'))} CPU devices, not {where.devices}: set"
                f" XLA_FLAGS=--xla_force_host_platform_device_count={where.devices}"
            )
        return jax.devices("cpu")[: where.devices]
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            "compiling for a TPU needs its compiler: pip install -e .[tpu] (it runs on any x86-64"
            " Linux, no TPU needed); or --compile never for the estimate alone"
        ) from None
    try:
        # A v4 chip's two cores are one device, as they are on the pods that are rented.
        asked: dict[str, Any] = {"chip_config_name": "megacore"} if where.kind == "v4" else {}
        if where.shape == "1x1":
            asked["chips_per_host_bounds"] = (1, 1, 1)
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=where.name, num_slices=where.slices, **asked
        )
    except Exception as error:
        raise ValueError(
            f"libtpu does not know {where.slices} x {where.name}"
            f" ({' '.join(str(error).split())[:120]}); near it: {near(where.kind, where.shape)}"
        ) from None
    return list(found.devices)
