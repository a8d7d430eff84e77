"""A state on disk: the one place that calls Orbax (version 1 interface), and its settings."""

import gc
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gesso.models.model import Params

_NAME = "state"
_READ_AT_ONCE = 512 << 20  # bytes; without a limit a restore takes 1.8 times the state in memory


def start_saving(path: Path, state: Params, *, timeout_seconds: int) -> Callable[[], None]:
    """Copy `state` off the devices and write it to `path` in the background.

    Returns what waits for the end and raises what went wrong. Called by all processes; in all of
    them the wait ends after the last one has written. `state` may be donated at once.
    """
    ocp = _orbax()
    with _context(timeout_seconds=timeout_seconds):
        return ocp.save_async(path, state, checkpointable_name=_NAME).result


def load(path: Path, abstract: Params) -> Params:
    """The arrays of `abstract`, a tree of jax.ShapeDtypeStruct (laid out as their shardings say) or
    of empty numpy arrays; called by all processes. Subtrees that `abstract` lacks are not read."""
    ocp = _orbax()
    largest = max(_bytes(leaf) for leaf in jax.tree.leaves(abstract))
    with _context(read_at_once=max(_READ_AT_ONCE, 2 * largest)):
        return ocp.load(path, abstract, checkpointable_name=_NAME)


def save_each(path: Path, trees: Iterable[Params]) -> None:
    """Write the arrays of `trees`, parts of one state in host memory, to `path`, a tree after the
    other: each is on disk, and nothing of it kept, before the next is taken. For one process."""
    ocp, context = _orbax(), _context()
    context.memory.deepcopy_host_arrays = False
    with context:
        for tree in trees:
            ocp.partial.save(path, tree)
            del tree
            gc.collect(1)  # Orbax leaves a young cycle of references, and in it the arrays
        ocp.partial.finalize(path)


def tree_bytes(tree: Params) -> int:
    """Bytes of all arrays of a (possibly abstract) tree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _orbax() -> Any:
    from orbax.checkpoint import v1

    return v1


def _context(*, timeout_seconds: int = 600, read_at_once: int = _READ_AT_ONCE) -> Any:
    context = _orbax().Context()
    # zstd takes five times the processor time to save 8% of trained weights, without checksums
    context.array.saving.use_compression = False
    # otherwise an OSError while the folder is made keeps all processes waiting for the timeout
    context.async_options.create_directories_asynchronously = False
    context.async_options.timeout_secs = timeout_seconds
    context.memory.read_concurrent_bytes = read_at_once
    context.pytree.loading.partial_load = True
    return context
