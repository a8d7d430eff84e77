"""A builder or a trainer without JAX that test_order_kill.py starts and kills.

argv: PAUSE build CORPUS STORE SHARE OF | PAUSE train STORE HOSTS STOP LOG STATE
PAUSE is in seconds per batch of the trainer; the builder takes a tenth of it per step of a write.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np

BATCH = 24
WEIGHTS = {"Code": 5.0, "Law": 1.0, "Wiki": 2.0}


def build_shards(pause: float, corpus: str, folder: str, share: int, of: int) -> None:
    from gesso.data.config import BuildConfig
    from gesso.data.store.build import build

    build(
        BuildConfig(
            sources=(f"{corpus}/*.jsonl",),
            folder=folder,
            part_tokens_first=1 << 11,
            part_tokens_cap=1 << 14,
            share=(share, of),
        ),
        step=lambda where: time.sleep(pause / 10),
    )


def train(pause: float, folder: str, hosts: int, stop: int, log_path: str, state_path: str) -> None:
    from gesso.data.config import MixtureConfig, OrderConfig
    from gesso.data.open import open_store
    from gesso.data.order.order import Order

    while not (Path(folder) / "meta.json").exists():
        time.sleep(0.02)
    mixture = MixtureConfig(kind="weights", values=WEIGHTS)
    order = Order(open_store(folder), OrderConfig(length=129, mixture=mixture, wait_seconds=120))
    state = Path(state_path)
    row = order.resume(json.loads(state.read_text())) if state.exists() else 0
    with Path(log_path).open("a") as log:
        while row < stop:
            for host in range(hosts):
                mine = np.arange(row + host * BATCH // hosts, row + (host + 1) * BATCH // hosts)
                made = order.take(mine)
                for k, i in enumerate(mine.tolist()):
                    parts = [made[name][k] for name in ("tokens", "segments", "positions")]
                    crc = zlib.crc32(np.concatenate(parts).tobytes())
                    log.write(f"{i} {made['component'][k]} {crc} end\n")
            row += BATCH
            time.sleep(pause)
            if row // BATCH % 5 == 0 or row >= stop:
                log.flush()
                draft = state.with_suffix(".draft")
                draft.write_text(json.dumps(order.state(row)))
                draft.replace(state)


if __name__ == "__main__":
    pause, job, *words = sys.argv[1:]
    if job == "build":
        build_shards(float(pause), words[0], words[1], int(words[2]), int(words[3]))
    else:
        train(float(pause), words[0], int(words[1]), int(words[2]), words[3], words[4])
