"""Slices lie along `replica`, and inside each any mesh that multiplies to its chips is laid out."""

from types import SimpleNamespace

import numpy as np
import pytest

from gesso.partitioning import mesh
from gesso.partitioning.config import MeshConfig


@pytest.mark.parametrize(("fsdp", "tensor"), [(32, 2), (16, 4), (8, 8), (64, 1)])
def test_any_mesh_lies_inside_the_slices(fsdp, tensor, monkeypatch):
    """fsdp 32 x tensor 2 follows no side of 8x8: the sides have to be split."""
    monkeypatch.setattr(mesh, "Mesh", lambda grid, *_, **__: grid)
    devices = [
        SimpleNamespace(
            id=64 * i + 8 * x + y,
            coords=(x, y, 0),
            core_on_chip=0,
            slice_index=i,
            platform="tpu",
            device_kind="TPU v5 lite",
            process_index=i,
        )
        for i in range(2)
        for x in range(8)
        for y in range(8)
    ]
    asked = MeshConfig(replica=2, data=1, fsdp=fsdp, tensor=tensor)
    grid = np.asarray(mesh.make_mesh(asked, devices=devices))
    assert grid.shape == (2, 1, fsdp, 1, tensor)
    for i in range(2):
        assert {each.slice_index for each in grid[i].flat} == {i}
