"""The manifest: written after everything else is on disk, and believed only when whole."""

import os
from pathlib import Path

import pytest

from gesso.pretrain.checkpoints import manifest
from gesso.pretrain.checkpoints.manifest import Leaf, Manifest, ManifestDamaged


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "state" / "d").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "state" / "d" / str(number)).write_bytes(bytes([number]) * 100)
    return tmp_path


def complete(**changes):
    leaves = {"params/x": Leaf(dtype="float32", shape=(2, 3), fingerprint="00")}
    return Manifest(step=4, leaves=leaves, info={"row": 2**60, "nothing": None}, **changes)


def test_read_gives_what_was_sealed(folder):
    manifest.seal(folder, complete())
    read = manifest.read(folder)
    assert (read.step, read.leaves, read.info) == (4, complete().leaves, complete().info)
    assert sorted(read.files) == [f"state/d/{number}" for number in range(5)]
    assert manifest.damage(folder, read) == []


def test_everything_is_on_disk_before_the_manifest_has_its_name(folder, monkeypatch):
    happened, sync = [], os.fsync

    def noted(descriptor):
        happened.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    manifest.seal(folder, complete())
    synced = [str(path.relative_to(folder)) for path in happened]
    files = {f"state/d/{number}" for number in range(5)} | {"state/d", "state", "."}
    assert set(synced[: len(files)]) == files
    assert synced[len(files)].startswith("manifest.json.")  # the part file, before its rename
    assert synced[len(files) + 1 :] == ["."]


def test_every_flipped_bit_of_the_manifest_is_found(folder):
    manifest.seal(folder, complete())
    content = (folder / manifest.NAME).read_bytes()
    whole, unnoticed = manifest.read(folder), 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (folder / manifest.NAME).write_bytes(changed)
        try:
            assert manifest.read(folder) == whole
            unnoticed += 1  # as a tab for a space between two JSON tokens
        except ManifestDamaged:
            continue
    assert unnoticed < 5


def test_parts_find_together_what_one_reader_finds(folder):
    manifest.seal(folder, complete())
    (folder / "state/d/0").unlink()
    (folder / "state/d/3").write_bytes(b"short")
    (folder / "state/d/4").write_bytes(bytes([5]) * 100)
    sealed = manifest.read(folder)
    alone = manifest.damage(folder, sealed)
    assert len(alone) == 3 and "missing" in alone[0] and "5 bytes, not 100" in alone[1]
    together = [
        each for part in (0, 1) for each in manifest.damage(folder, sealed, part=part, parts=2)
    ]
    assert sorted(together) == sorted(alone)


def test_unreadable_is_not_damaged(folder, monkeypatch):
    manifest.seal(folder, complete())

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionError):
        manifest.read(folder)
