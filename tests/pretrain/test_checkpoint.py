"""Checkpoints of one process: what is saved comes back, and what is damaged never does."""

import json
import os
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_state import abstract_on, arrays_of, assert_is, mesh_of, state_on

from gesso.pretrain.checkpoints import checkpoints as checkpoint
from gesso.pretrain.checkpoints import manifest, save_clock
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.checkpoints import (
    CheckpointDiffers,
    CheckpointFailed,
    Checkpoints,
    CheckpointsCorrupt,
    StateMismatch,
    load_params,
)
from gesso.pretrain.checkpoints.room import FolderUnusable, check_folder
from gesso.pretrain.config import CheckpointConfig
from gesso.pretrain.folder.lock import LockLost, RunLock


def saved(folder, *steps, mesh=None, **config):
    """Checkpoints in `folder` after saving `steps`."""
    checkpoints = Checkpoints(folder, CheckpointConfig(**config), log=lambda message: None)
    for step in steps:
        checkpoints.save(step, state_on(mesh or mesh_of(2, 2), step), {"data": {"row": step}})
    checkpoints.wait()
    return checkpoints


def names(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 1)])
def test_restored_on_any_mesh(tmp_path, shape):
    saved(tmp_path, 7, mesh=mesh_of(4, 2))
    abstract = abstract_on(mesh_of(*shape))
    restored = saved(tmp_path).restore(abstract)
    assert (restored.step, restored.info) == (7, {"data": {"row": 7}})
    assert_is(restored.state, 7)
    for x, asked in zip(jax.tree.leaves(restored.state), jax.tree.leaves(abstract), strict=True):
        assert x.sharding == asked.sharding


def test_nothing_saved_is_none(tmp_path):
    assert saved(tmp_path / "new").restore(abstract_on(mesh_of(2, 2))) is None


def test_state_may_be_donated_at_once(tmp_path):
    update = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints, state = saved(tmp_path), state_on(mesh_of(2, 2), 3)
    checkpoints.save(3, state, {})
    update(state)
    checkpoints.wait()
    assert_is(checkpoints.restore(abstract_on(mesh_of(2, 2))).state, 3)


def test_old_ones_go_and_every_nth_stays(tmp_path):
    checkpoints = saved(tmp_path, 2, 4, 6, 8, 10, keep_last=2, keep_every_steps=4)
    assert checkpoints.steps() == [4, 8, 10]
    assert names(tmp_path) == ["10", "4", "8"]


def test_saving_a_step_again_changes_nothing(tmp_path):
    checkpoints = saved(tmp_path, 5)
    before = (tmp_path / "5" / manifest.NAME).read_bytes()
    checkpoints.save(5, state_on(mesh_of(2, 2), 6), {})
    checkpoints.wait()
    assert (tmp_path / "5" / manifest.NAME).read_bytes() == before


def test_due_by_count_and_by_clock(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(save_clock.time, "monotonic", lambda: now[0])
    by_count = Checkpoints(tmp_path, CheckpointConfig(every_steps=3))
    assert [by_count.due(step) for step in range(1, 7)] == [False, False, True] * 2
    by_clock = Checkpoints(tmp_path, CheckpointConfig(every_steps=0, every_minutes=2))
    assert not by_clock.due(1)
    now[0] += 119
    assert not by_clock.due(2)
    now[0] += 2
    assert by_clock.due(3)


def damages(folder):
    """(what, file, new content) for every file: a flipped bit, a byte less, half, nothing, gone."""
    random = np.random.default_rng(0)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        yield "deleted", path, None
        if content:
            flipped = bytearray(content)
            flipped[random.integers(len(content))] ^= 1 << random.integers(8)
            yield "bit", path, bytes(flipped)
            yield "byte less", path, content[:-1]
            yield "empty", path, b""


def test_any_damage_to_any_file_falls_back_to_the_one_before(tmp_path):
    saved(tmp_path, 1, 2)
    abstract, tried = abstract_on(mesh_of(2, 2)), 0
    for what, path, content in list(damages(tmp_path / "2")):
        original = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        told = []
        restored = Checkpoints(tmp_path, CheckpointConfig(), log=told.append).restore(abstract)
        assert restored.step == 1, f"{what}: {path}"
        assert_is(restored.state, 1)
        assert "checkpoint 2" in told[0] and "damaged" in told[0]
        (aside,) = tmp_path.glob("rejected-2-*")
        aside.rename(tmp_path / "2")
        path.write_bytes(original)
        tried += 1
    assert tried > 30
    assert saved(tmp_path).restore(abstract).step == 2


def test_all_damaged_refuses_now_and_at_the_next_start(tmp_path):
    saved(tmp_path, 1, 2)
    for step in ("1", "2"):
        (tmp_path / step / "state" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointsCorrupt, match="rejected-2-"):
            saved(tmp_path).restore(abstract_on(mesh_of(2, 2)))
    assert len(list(tmp_path.glob("rejected-*/state"))) == 2


def test_empty_folder_with_a_higher_number_is_no_checkpoint(tmp_path):
    saved(tmp_path, 3)
    (tmp_path / "9").mkdir()
    checkpoints = saved(tmp_path)
    assert checkpoints.restore(abstract_on(mesh_of(2, 2))).step == 3
    checkpoints.save(9, state_on(mesh_of(2, 2), 9), {})
    checkpoints.wait()
    assert checkpoints.restore(abstract_on(mesh_of(2, 2))).step == 9


def test_asked_for_step_is_restored_or_refused(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    abstract = abstract_on(mesh_of(2, 2))
    assert_is(checkpoints.restore(abstract, step=1).state, 1)
    with pytest.raises(ValueError, match=r"no checkpoint 3 .* there are \[1, 2\]"):
        checkpoints.restore(abstract, step=3)
    (tmp_path / "1" / "state" / "_METADATA").write_bytes(b"{}")
    with pytest.raises(CheckpointsCorrupt, match="checkpoint 1 .*_METADATA"):
        checkpoints.restore(abstract, step=1)
    assert (tmp_path / "1").is_dir()


def test_what_an_interrupted_save_left_is_cleared(tmp_path):
    saved(tmp_path, 1)
    for left in ("2.writing", "2.writing.orbax-checkpoint-tmp", "0.deleting"):
        (tmp_path / left / "state").mkdir(parents=True)
    assert saved(tmp_path).restore(abstract_on(mesh_of(2, 2))).step == 1
    assert names(tmp_path) == ["1"]


def replaced(tree, name, leaf):
    return jax.tree.map_with_path(
        lambda path, x: leaf if checkpoint.leaf_name(path) == name else x, tree
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda a: replaced(
                a, "params/table", jax.ShapeDtypeStruct((32, 8), jnp.bfloat16, sharding=None)
            ),
            r"params/table is float32\[32,8\], asked is bfloat16\[32,8\]",
        ),
        (
            lambda a: replaced(
                a, "params/table", jax.ShapeDtypeStruct((32, 9), jnp.float32, sharding=None)
            ),
            r"asked is float32\[32,9\]",
        ),
        (lambda a: a | {"ema": a["params"]}, "ema/blocks/kernel is not in it"),
        (lambda a: {"params": a["params"], "step": a["step"]}, "is not asked for"),
    ],
)
def test_another_state_is_refused_before_loading(tmp_path, monkeypatch, change, told):
    checkpoints = saved(tmp_path, 1)
    monkeypatch.setattr(array_files, "load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(StateMismatch, match=told):
        checkpoints.restore(change(abstract_on(mesh_of(2, 2))))
    assert (tmp_path / "1").is_dir()


def test_whole_files_but_other_arrays_raise_and_move_nothing(tmp_path, monkeypatch):
    checkpoints, load = saved(tmp_path, 1), array_files.load

    def load_with_a_flipped_bit(path, abstract):
        state = load(path, abstract)
        table = np.asarray(state["params"]["table"]).copy()
        table.view(np.uint32)[3, 3] ^= 1
        state["params"]["table"] = jax.device_put(table, state["params"]["table"].sharding)
        return state

    monkeypatch.setattr(array_files, "load", load_with_a_flipped_bit)
    with pytest.raises(CheckpointDiffers, match="params/table"):
        checkpoints.restore(abstract_on(mesh_of(2, 2)))
    assert (tmp_path / "1").is_dir()


def test_params_alone_as_numpy_or_on_a_mesh(tmp_path):
    saved(tmp_path, 1, 2)
    params, info = load_params(tmp_path)
    assert info == {"data": {"row": 2}, "step": 2}
    jax.tree.map(np.testing.assert_array_equal, params, arrays_of(2)["params"])
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    placed, _ = load_params(tmp_path, abstract_on(mesh_of(4, 2))["params"], step=1)
    jax.tree.map(np.testing.assert_array_equal, placed, arrays_of(1)["params"])
    (tmp_path / "2" / "state" / "manifest.ocdbt").write_bytes(b"")
    assert load_params(tmp_path)[1]["step"] == 1
    assert names(tmp_path) == ["1", "2"]
    with pytest.raises(ValueError, match=r"no checkpoint in .*\(yet\)"):
        load_params(tmp_path / "none")


def test_failed_save_is_raised_by_the_next_poll(tmp_path, monkeypatch):
    checkpoints, seal = saved(tmp_path, 1), manifest.seal

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "seal", full)
    checkpoints.save(2, state_on(mesh_of(2, 2), 2), {})
    with pytest.raises(CheckpointFailed, match=r"checkpoint 2 .*GB free.*No space left"):
        for _ in range(1000):
            checkpoints.poll()
            time.sleep(0.01)
    checkpoints.poll()
    monkeypatch.setattr(manifest, "seal", seal)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state_on(mesh_of(2, 2), 2), {})
    checkpoints.wait()
    assert_is(checkpoints.restore(abstract_on(mesh_of(2, 2))).state, 2)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk_fails_the_save_and_keeps_the_older_ones(small_disk):
    checkpoints = saved(small_disk / "checkpoints", 1)
    (small_disk / "filler").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * 4096 - 8192))
    with pytest.raises(CheckpointFailed, match="0.00 GB free"):
        checkpoints.save(2, state_on(mesh_of(2, 2), 2), {})
        checkpoints.wait()
    assert checkpoints.steps() == [1]
    (small_disk / "filler").unlink()
    assert saved(small_disk / "checkpoints").restore(abstract_on(mesh_of(2, 2))).step == 1


def test_too_small_disk_is_refused_before_anything_is_computed(small_disk):
    big = {"params": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)}
    with pytest.raises(FolderUnusable, match=r"0.01 GB: 2.2 times a state of 0.00 GB"):
        saved(small_disk / "checkpoints").restore(big)


def test_room_of_complete_checkpoints_is_used_again(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    check_folder(tmp_path, state_bytes=int(free / 1.5), complete=1)
    with pytest.raises(FolderUnusable, match="2.2 times"):
        check_folder(tmp_path, state_bytes=int(free / 1.5), complete=0)


def test_read_only_folder_is_refused():
    with pytest.raises(FolderUnusable, match="cannot write to /proc/self"):
        check_folder(Path("/proc/self"), state_bytes=0)


def test_nothing_is_written_once_the_lock_is_lost(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(), lock=lock)
    (tmp_path / "run.lock").write_text(json.dumps({"token": "another", "host": "h"}))
    with pytest.raises(LockLost, match="held by host h"):
        checkpoints.save(1, state_on(mesh_of(2, 2), 1), {})
    with pytest.raises(LockLost):
        checkpoints.poll()
    assert not (tmp_path / "checkpoints").exists()
    lock.release()


def test_close_waits_and_does_not_hide_another_error(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("full")

    monkeypatch.setattr(manifest, "seal", full)
    told = []
    for step, expected in ((1, CheckpointFailed), (2, KeyError)):
        checkpoints = Checkpoints(tmp_path, CheckpointConfig(), log=told.append)
        checkpoints.save(step, state_on(mesh_of(2, 2), step), {})
        with pytest.raises(expected):
            try:
                if expected is KeyError:
                    raise KeyError("the run's own")
            finally:
                checkpoints.close()
    assert "checkpoint 2 could not be written" in told[-1]
