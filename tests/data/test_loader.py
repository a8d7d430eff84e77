"""Batches on a mesh: the same global rows on any mesh, host count and prefetch depth."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from memory_store import make_store

from gesso.data.config import MixtureConfig, OrderConfig
from gesso.data.loader import Loader
from gesso.data.order.order import Order
from gesso.data.store.errors import BuildFailed
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.mesh import make_mesh

MESHES = {
    "data": {"data": 8},
    "data and fsdp": {"data": 2, "fsdp": 4},
    "sequence": {"data": 2, "sequence": 4},
    "tensor": {"data": 2, "tensor": 4},
    "all": {"replica": 2, "data": 1, "fsdp": 2, "sequence": 2, "tensor": 1},
}


def next_token(rows):
    """A causal objective's host_batch, as far as the loader cares."""
    segments = rows["segments"]
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return {
        "tokens": rows["tokens"][:, :-1],
        "targets": rows["tokens"][:, 1:],
        "segments": segments[:, :-1],
        "positions": rows["positions"][:, :-1],
        "lm_weight": same.astype(np.float32),
        "component": rows["component"],
    }


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


def order(store, **settings):
    return Order(store, OrderConfig(length=65, **settings))


def batches(loader, n):
    with loader:
        return [next(loader) for _ in range(n)]


def as_numpy(batch):
    return {name: np.asarray(array) for name, array in batch.arrays.items()}


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_a_batch_is_the_rows_of_the_order(store, mesh):
    loader = Loader(order(store), next_token, mesh=make_mesh(MeshConfig(**mesh)), batch=8)
    for step, batch in enumerate(batches(loader, 3)):
        expected = next_token(order(store).rows(8 * step, 8))
        got = as_numpy(batch)
        assert batch.rows == (8 * step, 8 * step + 8)
        for name, array in expected.items():
            assert np.array_equal(got[name], array), name
        for row in range(8):
            payload = expected["tokens"][row].tobytes() + expected["lm_weight"][row].tobytes()
            assert got["row_crc"][row] == zlib.crc32(payload)


def test_arrays_are_split_by_row_and_length(store):
    mesh = make_mesh(MeshConfig(data=2, sequence=2, tensor=2))
    (batch,) = batches(Loader(order(store), next_token, mesh=mesh, batch=8), 1)
    shapes = {name: a.addressable_shards[0].data.shape for name, a in batch.arrays.items()}
    assert shapes["tokens"] == (4, 32)
    assert shapes["component"] == shapes["row_crc"] == (4,)


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_prefetching_changes_nothing(store, prefetch):
    mesh = make_mesh(MeshConfig())
    skip = ((20, 30), (41, 42))
    loader = Loader(
        order(store, skip=skip), next_token, mesh=mesh, batch=8, start_row=5, prefetch=prefetch
    )
    seen = batches(loader, 6)
    assert [each.rows for each in seen][:3] == [(5, 13), (13, 31), (31, 39)]
    rows = order(store, skip=skip).rows(5, 48)
    tokens = np.concatenate([as_numpy(each)["tokens"] for each in seen])
    assert np.array_equal(tokens, rows["tokens"][:, :-1])
    # A run that starts again where a batch ended goes on with the same rows.
    again = Loader(
        order(store, skip=skip), next_token, mesh=mesh, batch=8, start_row=seen[1].rows[1]
    )
    assert np.array_equal(as_numpy(batches(again, 1)[0])["tokens"], tokens[16:24])


def test_rows_are_made_once_a_batch(store):
    made = []

    def counting(rows):
        made.append(rows["row"].tolist())
        return next_token(rows)

    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    batches(Loader(order(store), counting, mesh=mesh, batch=4, prefetch=0), 2)
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_wait_is_measured(store):
    def slow(rows):
        time.sleep(0.2)
        return next_token(rows)

    mesh = make_mesh(MeshConfig())
    assert batches(Loader(order(store), slow, mesh=mesh, batch=8), 1)[0].wait_seconds > 0.1
    with Loader(order(store), next_token, mesh=mesh, batch=8) as loader:
        next(loader)
        deadline = time.monotonic() + 30
        while not loader._ready.full() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert next(loader).wait_seconds < 0.1


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_failure_reaches_the_consumer(store, prefetch):
    store.complete = False
    mixture = MixtureConfig(kind="weights", values={"Law": 1})
    loader = Loader(
        order(store, mixture=mixture),
        next_token,
        mesh=make_mesh(MeshConfig()),
        batch=8,
        prefetch=prefetch,
    )
    next(loader)
    store.failure = "disk full"
    with pytest.raises(BuildFailed, match="disk full"):
        for _ in range(1000):
            next(loader)
    with pytest.raises(BuildFailed):  # and again: a failed loader has no next batch
        next(loader)
    loader.close()


def test_closing_ends_the_thread_while_it_waits_for_a_builder(store):
    store.complete = False
    mixture = MixtureConfig(kind="weights", values={"Law": 1})
    waiting = order(store, mixture=mixture, wait_seconds=600)
    mesh = make_mesh(MeshConfig())
    loader = Loader(waiting, next_token, mesh=mesh, batch=512, prefetch=1)
    time.sleep(0.3)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 30
    assert not any(thread.name == "gesso-loader" for thread in threading.enumerate())
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def test_closing_drops_what_was_made_ahead(store):
    loader = Loader(order(store), next_token, mesh=make_mesh(MeshConfig()), batch=8, prefetch=2)
    next(loader)
    loader.close()
    loader.close()
    assert not any(thread.name == "gesso-loader" for thread in threading.enumerate())


def test_refused(store):
    mesh = make_mesh(MeshConfig())
    with pytest.raises(ValueError, match="batch 12 .* 8 row splits .* try 8 or 16"):
        Loader(order(store), next_token, mesh=mesh, batch=12)
    with pytest.raises(ValueError, match="must not be negative"):
        Loader(order(store), next_token, mesh=mesh, batch=8, start_row=-1)
    odd = make_mesh(MeshConfig(data=1, sequence=8))
    with pytest.raises(ValueError, match="length 63 does not divide .* sequence=8"):
        next(Loader(Order(store, OrderConfig(length=64)), next_token, mesh=odd, batch=1))


def run_processes(count, folder, mesh):
    """What each of `count` real processes, 8 devices in all, made of the same three batches."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    here = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here), *sys.path]),
    }
    script = str(here / "loader_process.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(count), str(k), port, str(folder), json.dumps(mesh)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    try:
        lines = [process.communicate(timeout=240)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("mesh", [MESHES["data"], MESHES["tensor"], MESHES["sequence"]])
def test_two_processes_load_what_one_does(tmp_path, mesh):
    assert jax.device_count() == 8
    (alone,) = run_processes(1, tmp_path, mesh)
    first, second = run_processes(2, tmp_path, mesh)
    for each in (first, second):
        assert each["crcs"] == alone["crcs"]
        assert each["sums"] == alone["sums"]
    # Each made its half of every batch and no other row.
    assert alone["made"] == list(range(24))
    assert first["made"] == [row for row in range(24) if row % 8 < 4]
    assert second["made"] == [row for row in range(24) if row % 8 >= 4]
