"""Durable, atomic files: nothing torn, nothing left behind, on disk before the call returns."""

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from gesso.storage.files import leftovers, sync_tree, write_durably, write_json


def test_json_is_what_python_writes_with_one_space_and_a_newline(tmp_path):
    record = {"é": [1, 2.5, None], "b": {}}
    write_json(tmp_path / "new" / "folder" / "a.json", record)
    text = (tmp_path / "new/folder/a.json").read_text()
    assert text == json.dumps(record, indent=1) + "\n"
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["a.json"]


def test_text_is_utf8_and_bytes_are_as_given(tmp_path):
    write_durably(tmp_path / "a", "é\n")
    write_durably(tmp_path / "b", b"\xff\x00")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\xff\x00"


def test_the_content_is_on_disk_before_its_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    happened, sync = [], os.fsync

    def noted(descriptor: int) -> None:
        happened.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_durably(tmp_path / "made" / "a", "x", step=lambda where: happened.append(Path(where)))
    made, part, written, renamed, folder = happened
    assert (made, folder) == (tmp_path, tmp_path / "made")
    assert part.parent == folder
    assert part.name.startswith("a.")
    assert (str(written), str(renamed)) == ("written a", "renamed a")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    write_durably(tmp_path / "a", "old")

    def fail(where: str) -> None:
        raise OSError(where)

    with pytest.raises(OSError, match="written a"):
        write_durably(tmp_path / "a", "new", step=fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def _killed(path: Path) -> None:
    write_durably(path, "new", step=lambda where: os.kill(os.getpid(), signal.SIGKILL))


def test_a_killed_writer_leaves_a_file_that_is_known_as_such(tmp_path):
    write_durably(tmp_path / "a", "old")
    (tmp_path / "a.tmp").write_text("somebody else's")
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    (left,) = leftovers(tmp_path)
    assert left.read_text() == "new"


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    contents = [str(number) * 100_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_durably, args=(tmp_path / "a", content))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_a_tree_is_synced_with_every_file_and_folder(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    for name in ("a", "b/c"):
        (tmp_path / name).write_text(name)
    seen = set()
    monkeypatch.setattr(
        os, "fsync", lambda file: seen.add(Path(f"/proc/self/fd/{file}").readlink())
    )
    sync_tree(tmp_path)
    assert seen == {tmp_path, tmp_path / "b", tmp_path / "a", tmp_path / "b/c"}
