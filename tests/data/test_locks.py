"""The one lock of the data's writers: refused with the holder's name, or waited for."""

import os
import threading

import pytest

from gesso.data.store.locks import FileLock, Locked


def test_a_held_lock_is_refused_by_name_or_waited_for(tmp_path):
    path = tmp_path / "locks" / "it.lock"
    first, second = FileLock(path, what="it"), FileLock(path, what="it", advice="; wait")
    first.acquire()
    with pytest.raises(Locked, match=rf"^it is being built by process {os.getpid()} on .*; wait$"):
        second.acquire()
    told, held = [], []

    def wait():
        with second.wait(told.append):
            held.append(path.exists())

    thread = threading.Thread(target=wait)
    thread.start()
    while not told:
        thread.join(0.01)
    assert not held, "both hold it"
    first.release()
    thread.join(20)
    assert held == [True] and not path.exists()
    assert told[0].startswith("it is being built by process")
