"""The global batch as the step is compiled for it: its arrays' shapes, types and shardings."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gesso.objectives.base import Objective
from gesso.partitioning.axes import spec
from gesso.partitioning.layouts import LAYOUTS

Batch = dict[str, jax.Array]


def abstract_batch(
    objective: Objective, *, rows: int, length: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch as jax.ShapeDtypeStructs with their shardings: what the objective makes of
    a row of padding, `rows` times."""
    made = objective.host_batch(padding_rows(objective, length))
    made["row_crc"] = np.zeros(1, np.uint32)
    return {
        name: jax.ShapeDtypeStruct(
            (rows, *leaf.shape[1:]),
            leaf.dtype,
            sharding=batch_sharding(mesh, objective.letters.get(name, "BL"[: leaf.ndim])),
        )
        for name, leaf in made.items()
    }


def padding_rows(objective: Objective, length: int) -> dict[str, np.ndarray]:
    """One row of the data in which nothing is written."""
    shape = (1, objective.row_length(length))
    rows = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    if objective.companions:
        rows |= {f"other_{name}": leaf for name, leaf in rows.items()}
    return rows | {"component": np.zeros(1, np.int32), "row": np.zeros(1, np.int64)}


def batch_sharding(mesh: Mesh, letters: str) -> NamedSharding:
    """Where a batch leaf lies: rows over replica, data and fsdp; their length over sequence."""
    return NamedSharding(mesh, spec(letters, LAYOUTS["replicated"].in_flight))
