"""A builder that dies at any point, however it dies, leaves a store that the next one finishes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sample_corpus import BAD_LINES, lines, small_build, tree, write_jsonl

from gesso.data.open import open_store

KILLED = """
import sys, time
from sample_corpus import small_build
small_build(sys.argv[1], sys.argv[2], reject_cap=1.0, workers=int(sys.argv[3]),
            step=lambda where: time.sleep(float(sys.argv[4])))
"""


class Crash(BaseException):
    """What no handler of the builder catches, as kill -9 would not be."""


def corpus(folder: Path) -> Path:
    records = lines(70)
    records[10:12] = BAD_LINES[:2]
    write_jsonl(folder / "0.jsonl.zst", records)
    write_jsonl(folder / "1.jsonl", lines(40, seed=1))
    return folder


def test_crashes_at_every_point_leave_the_same_store(tmp_path):
    source = corpus(tmp_path / "in")
    points = []
    small_build(source, tmp_path / "reference", reject_cap=1.0, step=points.append)
    want = tree(tmp_path / "reference")
    kinds = {point.split()[0] for point in points}
    assert kinds == {"opening", "writing", "written", "renamed"}
    rng = random.Random(0)
    crashes, met = 0, set()
    for trial in range(6):
        folder = tmp_path / f"store{trial}"
        # Far enough for a part to be committed between two crashes, now and then.
        while crashes < 1000:
            left = rng.randrange(1, 160)

            def step(where):
                nonlocal left
                left -= 1
                if not left:
                    met.add(where.split()[0] + where.rsplit(".", 1)[-1])
                    raise Crash

            try:
                small_build(source, folder, reject_cap=1.0, step=step)
                break
            except Crash:
                crashes += 1
        assert tree(folder) == want
    assert crashes >= 30
    assert len(met) >= 8


def test_a_hundred_crashes_in_a_row(tmp_path):
    """Every point in order, twice: starts 2n and 2n + 1 die at their n-th point."""
    source = corpus(tmp_path / "in")
    settings = {"reject_cap": 1.0, "part_tokens_first": 1000, "part_tokens_cap": 1200}
    small_build(source, tmp_path / "reference", **settings)
    folder = tmp_path / "store"
    crashes = 0
    while True:
        left = 1 + crashes // 2

        def step(where):
            nonlocal left
            left -= 1
            if not left:
                raise Crash

        try:
            small_build(source, folder, step=step, **settings)
            break
        except Crash:
            crashes += 1
            # Readers see whole parts only, at any time.
            if crashes % 20 == 0 and (folder / "meta.json").exists():
                assert open_store(folder).verify() == []
    assert crashes >= 100
    assert tree(folder) == tree(tmp_path / "reference")


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_minus_nine(tmp_path, workers):
    source = corpus(tmp_path / "in")
    small_build(source, tmp_path / "reference", reject_cap=1.0)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    rng = random.Random(workers)
    kills = 0
    for attempt in range(40):
        pause = "0.004" if attempt < 5 else "0"
        arguments = [str(source), str(tmp_path / "store"), str(workers), pause]
        builder = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], env=environment)
        if attempt < 5:
            while not list((tmp_path / "store").glob("s*/*")) and builder.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.6))
        else:
            builder.wait(timeout=60)
        children = psutil.Process(builder.pid).children() if builder.poll() is None else []
        builder.kill()
        if builder.wait() == 0:
            break
        kills += 1
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "a tokenizer process outlived its builder"
    assert kills >= 3
    assert builder.returncode == 0
    assert tree(tmp_path / "store") == tree(tmp_path / "reference")


def test_a_full_disk_is_told_to_readers(tmp_path):
    source = corpus(tmp_path / "in")

    def step(where):
        if where == "writing p00001.github.tok":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        small_build(source, tmp_path / "store", reject_cap=1.0, step=step)
    assert "No space left" in open_store(tmp_path / "store").error()
    small_build(source, tmp_path / "store", reject_cap=1.0)
    small_build(source, tmp_path / "reference", reject_cap=1.0)
    assert tree(tmp_path / "store") == tree(tmp_path / "reference")
