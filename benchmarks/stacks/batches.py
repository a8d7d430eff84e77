"""What every client is asked, and what the checkpoint itself answers."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gesso.export.stacks.stablehlo import batch_of
from gesso.models import build
from gesso.models.families import family

ROWS, LENGTH = 3, 13


def batch_for(config: Any) -> dict[str, np.ndarray]:
    """Random ids without padding, int32 [ROWS, LENGTH, ...], for every leaf but positions."""
    random, batch = np.random.default_rng(1), {}
    sizes = family(config.family).network().inputs(config)
    for leaf, like in batch_of(config).items():
        shape = (ROWS, LENGTH, *like.shape[2:])
        if leaf.endswith("segments"):
            batch[leaf] = np.ones(shape, np.int32)
        elif not leaf.endswith("positions"):
            lowest = 0 if leaf == "token_types" else 2
            batch[leaf] = random.integers(lowest, sizes[leaf], shape, np.int32)
    return batch


def outputs_of(
    config: Any, params: Mapping[str, Any], batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's outputs, products in float32 throughout."""
    with jax.default_matmul_precision("highest"):
        made = jax.jit(build(config).apply)(dict(params), dict(batch))
    return {name: np.asarray(x) for name, x in made.items()}
