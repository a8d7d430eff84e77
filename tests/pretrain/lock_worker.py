"""Takes the lock of a folder, holds it for some seconds while checking it, and says what happened.

lock_worker.py FOLDER SECONDS HOST: HOST replaces the host's identity, as if on another machine.
"""

import sys
import time

from gesso.pretrain.folder import lock as runlock
from gesso.pretrain.folder.lock import LockHeld, LockLost, RunLock


def main(folder: str, seconds: str, host: str) -> None:
    if host:
        runlock._kernel = lambda: host
    lock = RunLock(folder, beat_seconds=0.2, stale_seconds=4)
    began = time.monotonic()
    try:
        lock.acquire()
    except LockHeld as error:
        print("HELD", error, flush=True)
        return
    print("GOT", round(time.monotonic() - began, 2), flush=True)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        time.sleep(0.05)
        try:
            lock.check()
        except LockLost as error:
            print("LOST", error, flush=True)
            return
    lock.release()
    print("RELEASED", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
