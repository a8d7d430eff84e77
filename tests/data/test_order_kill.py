"""Builders and trainer killed with -9 at random times: every row still comes, once and the same."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STOP = 4800


def write_corpus(folder: Path) -> None:
    rng = random.Random(0)
    folder.mkdir()
    for shard in range(4):
        with (folder / f"{shard}.jsonl").open("w") as lines:
            for n in range(150 + 20 * shard):
                text = "".join(rng.choices("abcdefgh \n", k=int(rng.lognormvariate(5.5, 1))))
                name = rng.choice(["Code", "Law", "Wiki", "Wiki"])
                record = {"text": f"{shard}/{n} {text}", "meta": {"pile_set_name": name}}
                lines.write(json.dumps(record) + "\n")


def start(root: Path, *, pause: float, builders: int, hosts: int) -> list[subprocess.Popen]:
    corpus, store = str(root.parent / "corpus"), str(root / "store")
    root.mkdir(exist_ok=True)
    jobs = [["build", corpus, store, str(k), str(builders)] for k in range(builders)]
    jobs.append(["train", store, str(hosts), str(STOP), str(root / "log"), str(root / "state")])
    here = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "order_kill_worker.py"), str(pause), *job],
            env=os.environ | {"PYTHONPATH": here},
        )
        for job in jobs
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    assert [process.wait(timeout=300) for process in processes] == [0] * len(processes)


def kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def rows_of(log: Path) -> dict[int, set[str]]:
    rows: dict[int, set[str]] = {}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) == 4 and words[3] == "end":  # the kill may have torn a line
            rows.setdefault(int(words[0]), set()).add(" ".join(words[1:3]))
    return rows


def files_of(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.glob("s*/**/*")
        if path.is_file() and path.suffix in (".tok", ".off", ".json", ".jsonl")
    }


def progress(root: Path) -> tuple[int, int]:
    """(the trainer's next row, the builders' committed parts)."""
    state = root / "state"
    row = json.loads(state.read_text())["next_row"] if state.exists() else 0
    return row, len(list(root.glob("store/s*/p*[0-9].json")))


def wait_for_progress(root: Path) -> None:
    before, began = progress(root), time.monotonic()
    while progress(root) == before and time.monotonic() - began < 60:
        time.sleep(0.01)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_no_row_is_lost_or_changed(tmp_path, kills):
    write_corpus(tmp_path / "corpus")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, pause=0, builders=1, hosts=1))
    rng, struck = random.Random(kills), []
    pause = kills / 2 / (STOP / 24)  # half a second of work for every kill
    for number in range(kills):
        hosts, builders = rng.choice([1, 2, 3, 4, 6, 8, 12]), rng.choice([1, 2, 4])
        processes = start(killed, pause=pause, builders=builders, hosts=hosts)
        if number % 4 != 3:  # every fourth life ends at any point of starting up
            wait_for_progress(killed)
        time.sleep(rng.uniform(0, 0.5))
        kill(processes)
        struck.append(progress(killed))
    finish(start(killed, pause=0, builders=2, hosts=6))
    # The kills came while there was work to interrupt.
    assert struck[0][0] < STOP
    assert len(set(struck)) > kills // 3
    expected, got = rows_of(whole / "log"), rows_of(killed / "log")
    assert sorted(expected) == list(range(STOP))
    assert got == expected
    assert len(files_of(whole / "store")) > 40
    assert files_of(whole / "store") == files_of(killed / "store")
