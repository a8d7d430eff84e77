"""Checkpoints of parameters one array at a time: the same as all at once, and nothing half."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.pretrain.checkpoints.checkpoints import Checkpoints, CheckpointsCorrupt, load_params
from gesso.pretrain.checkpoints.room import FolderUnusable
from gesso.pretrain.checkpoints.streamed import StoredParams, save_params
from gesso.pretrain.config import CheckpointConfig

RANDOM = np.random.default_rng(0)
PARAMS = {
    "embed": RANDOM.normal(size=(7, 4)).astype(np.float32),
    "blocks/mlp/up": RANDOM.normal(size=(2, 4, 8)).astype(jnp.bfloat16),
    "blocks/norm/scale": RANDOM.normal(size=(2, 4)).astype(np.float32),
}
INFO = {"tokenizer": "abc"}
# How far the peak of a process of its own rises: arrays of 240 million bytes, one alive at a time.
WORKER = """
import re, sys
import numpy as np
import gesso.pretrain.checkpoints.streamed as streamed
folder, what = sys.argv[1:]
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def arrays(size, count):
    for i in range(count):
        yield f"w{i}", np.full((size // 4000, 1000), i, np.float32)
streamed.save_params(folder + "/warm", 0, arrays(4_000, 2), {}, size=8_000)
for i in range(2):
    streamed.StoredParams(folder + "/warm").read(f"w{i}")
before = peak()
if what == "save":
    streamed.save_params(folder + "/run", 0, arrays(240_000_000, 3), {}, size=720_000_000)
else:
    stored = streamed.StoredParams(folder + "/run")
    for name in stored.names:
        assert stored.read(name)[5, 5] == int(name[1:])
print(peak() - before)
"""


def test_it_is_the_checkpoint_that_a_run_would_have_saved(tmp_path):
    save_params(tmp_path / "a", 0, PARAMS.items(), INFO, size=1000)
    tree = {"embed": PARAMS["embed"], "blocks": {"mlp": {}, "norm": {}}}
    tree["blocks"]["mlp"]["up"] = PARAMS["blocks/mlp/up"]
    tree["blocks"]["norm"]["scale"] = PARAMS["blocks/norm/scale"]
    checkpoints = Checkpoints(tmp_path / "b", CheckpointConfig(), log=lambda text: None)
    checkpoints.save(0, {"params": jax.tree.map(jnp.asarray, tree)}, INFO)
    checkpoints.close()
    for folder in "ab":
        params, info = load_params(tmp_path / folder)
        assert info == {**INFO, "step": 0}
        assert (params["blocks"]["mlp"]["up"] == PARAMS["blocks/mlp/up"]).all()
        stored = StoredParams(tmp_path / folder)
        assert sorted(stored.names) == sorted(PARAMS) and stored.info == info
        for name, x in PARAMS.items():
            read = stored.read(name)
            assert read.dtype == x.dtype and (read == x).all()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    asked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
    checkpoints = Checkpoints(tmp_path / "a", CheckpointConfig(), log=lambda text: None)
    restored = checkpoints.restore({"params": asked})  # which compares fingerprints
    assert restored is not None and (restored.state["params"]["embed"] == PARAMS["embed"]).all()


def test_what_fails_in_the_middle_leaves_no_checkpoint(tmp_path):
    def half():
        yield "embed", PARAMS["embed"]
        raise ValueError("tensor of the file is damaged")

    with pytest.raises(ValueError, match="is damaged"):
        save_params(tmp_path, 0, half(), INFO, size=1000)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        StoredParams(tmp_path)
    save_params(tmp_path, 0, PARAMS.items(), INFO, size=1000)
    assert [each.name for each in tmp_path.iterdir()] == ["0"]


def test_no_room_is_said_before_anything_is_read(tmp_path):
    def never():
        raise AssertionError
        yield

    with pytest.raises(FolderUnusable, match="GB free, but checkpoints need"):
        save_params(tmp_path, 0, never(), INFO, size=10**18)


def test_a_flipped_bit_is_noticed(tmp_path):
    x = RANDOM.normal(size=(200, 100)).astype(np.float32)
    save_params(tmp_path, 0, [("embed", x)], INFO, size=80_000)
    content = x.tobytes()[1000:2000]
    path = next(p for p in tmp_path.rglob("*") if p.is_file() and content in p.read_bytes())
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(content) + 9] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointsCorrupt, match="has another checksum"):
        StoredParams(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_one_array(tmp_path):
    """Three arrays of 240 MB: written with one in memory, read with its file's bytes besides."""
    for what, most in (("save", 1), ("read", 2)):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(tmp_path), what],
            capture_output=True,
            text=True,
            timeout=200,
            env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout) < most * 240e6 + 180e6, what  # the latter whatever their size
