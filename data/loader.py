"""From the data order to global arrays on a mesh, made ahead by one thread.

Every process makes the rows its own devices hold, and nothing else: hosts own slices of the global
batch, never slices of the corpus.
"""

import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gesso.data.order.base import RowOrder
from gesso.partitioning.axes import spec
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import batch_splits

Transform = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
# All layouts split the rows of a batch and the length of a row the same way.
_IN_FLIGHT = LAYOUTS["replicated"].in_flight


@dataclass(frozen=True)
class Batch:
    """One global batch.

    arrays: {name: jax.Array [B, ...]}, rows split as "B", their length as "L".
    rows: (first, last + 1) of the data order; the next batch starts at last + 1.
    wait_seconds: how long the consumer waited for it.
    """

    arrays: dict[str, jax.Array]
    rows: tuple[int, int]
    wait_seconds: float


class Loader:
    """Batches from `start_row` on, without end; an iterator, and a context manager that closes.

    transform: rows as RowOrder.take gives them -> {name: [n, ...]}, row by row (the objective's
    host_batch). letters: those of its arrays that are not "B" or "BL". The loader adds "row_crc"
    u32[B]: crc32 over a row's tokens and then its `*_weight` arrays in name order, so that a
    batch's checksum is the same on any mesh.
    prefetch: batches made ahead; 0 makes each when it is asked for. Raises ValueError when the
    batch or a row's length does not divide over the mesh; what goes wrong while rows are made
    (BuildFailed, StoreBehind) is raised to the consumer.
    """

    def __init__(
        self,
        order: RowOrder,
        transform: Transform,
        *,
        mesh: Mesh,
        batch: int,
        letters: Mapping[str, str] | None = None,
        start_row: int = 0,
        prefetch: int = 2,
    ) -> None:
        splits = batch_splits(mesh)
        if batch < 1 or batch % splits:
            # The nearest batches on both sides that divide.
            near = sorted({max(1, batch // splits) * splits, (batch // splits + 1) * splits})
            raise ValueError(
                f"batch {batch} does not divide over the {splits} row splits of the mesh"
                f" (replica x data x fsdp); try {' or '.join(map(str, near))}"
            )
        if start_row < 0 or prefetch < 0:
            raise ValueError(f"start_row {start_row} and prefetch {prefetch} must not be negative")
        self._order, self._transform, self._mesh, self._batch = order, transform, mesh, batch
        self._letters = letters or {}
        self._mine = _local_rows(mesh, batch)
        self._next_row = start_row
        self._stop = threading.Event()
        # Kept, so that asking again raises again instead of waiting for a thread that has ended.
        self._failure: BaseException | None = None
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=max(1, prefetch))
        self._thread = None
        if prefetch:
            self._thread = threading.Thread(target=self._run, name="gesso-loader", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise ValueError("the loader is closed")
        made = self._ready.get() if self._thread else self._make()
        if isinstance(made, BaseException):
            self._failure = made
            raise made
        return Batch(made.arrays, made.rows, time.perf_counter() - start)

    def close(self) -> None:
        """Stop the thread, also when it waits for a builder. Batches made ahead are dropped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        made: Batch | BaseException
        while not self._stop.is_set():
            try:
                made = self._make()
            except BaseException as error:  # any: the consumer would wait for a dead thread
                made = error
            while not self._stop.is_set():
                # A put without a time limit would keep `close` waiting on a full queue.
                try:
                    self._ready.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(made, BaseException):
                return

    def _make(self) -> Batch:
        rows = self._order.visit(self._next_row, self._batch)
        # Skipped ranges are passed over: the next batch begins behind the last row taken.
        first, self._next_row = int(rows[0]), int(rows[-1]) + 1
        # What is random in a transform is keyed by row number, so hosts make their rows apart.
        made = self._transform(self._order.take(rows[self._mine], stop=self._stop))
        made = made | {"row_crc": row_crc(made)}
        arrays = {name: self._place(name, array) for name, array in made.items()}
        return Batch(arrays, (first, self._next_row), 0.0)

    def _place(self, name: str, local: np.ndarray) -> jax.Array:
        if len(local) != len(self._mine):
            raise ValueError(
                f"{name!r} has {len(local)} rows, not {len(self._mine)}: {local.shape}"
            )
        letters = self._letters.get(name, "BL"[: local.ndim])
        sequence = self._mesh.shape["sequence"]
        # Before JAX refuses the shape, for it cannot name the array.
        if "L" in letters and local.shape[letters.index("L")] % sequence:
            raise ValueError(
                f"{name!r} of length {local.shape[1]} does not divide over mesh axis"
                f" sequence={sequence}"
            )
        sharding = NamedSharding(self._mesh, spec(letters, _IN_FLIGHT))

        # Called once per local device; devices that hold the same rows get views of one array.
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            begin, end, _ = index[0].indices(self._batch)
            # A device's rows are consecutive in the batch, hence also among this process's own.
            at = int(np.searchsorted(self._mine, begin))
            return local[(slice(at, at + end - begin), *index[1:])]

        shape = (self._batch, *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)


def row_crc(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """u32[n]: crc32 of each row of "tokens", then of each "*_weight" array in name order."""
    names = ["tokens", *sorted(name for name in arrays if name.endswith("_weight"))]
    # crc32 reads a row's memory, which must be in one piece.
    parts: list[np.ndarray] = [np.ascontiguousarray(arrays[name]) for name in names]
    crc = np.zeros(len(parts[0]), np.uint32)
    for row in range(len(crc)):
        value = 0
        for part in parts:
            value = zlib.crc32(part[row], value)
        crc[row] = value
    return crc


def _local_rows(mesh: Mesh, batch: int) -> np.ndarray:
    # The rows of the global batch that this process's devices hold, sorted, i64[n].
    indices = NamedSharding(mesh, spec("B", _IN_FLIGHT)).addressable_devices_indices_map((batch,))
    spans = {index[0].indices(batch)[:2] for index in indices.values() if index}
    return np.unique(np.concatenate([np.arange(*span) for span in sorted(spans)]))
