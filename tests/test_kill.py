"""The kill test: trainer and builder die by kill -9 at random moments, and nothing is lost.

`make test-slow` runs it; by itself: `.venv/bin/python tests/test_kill.py --kills 20`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import free_ports

HERE = Path(__file__).parent
STEPS, BATCH = 48, 16
WEIGHTS = {"Stdlib": 0.5, "StdlibTests": 0.3, "Docstrings": 0.2}
# (processes, devices of each, mesh): every split lays out 8 rows or fewer, so 16 rows divide.
SPLITS = [
    (1, 4, {"data": 2, "fsdp": 2}),
    (2, 2, {"data": 2, "fsdp": 2}),
    (1, 1, {"data": 1}),
    (1, 8, {"data": 2, "fsdp": 2, "tensor": 2}),
    (4, 1, {"data": 4}),
    (2, 1, {"data": 1, "fsdp": 2}),
]


def overrides(store: Path, mesh: dict[str, int], *, tensor: bool) -> dict:
    return {
        "data.store": str(store),
        "data.mixture.kind": "weights",
        "data.mixture.values": WEIGHTS,
        "model.layers": 2,
        "model.embed": 32,
        "model.mlp": 64,
        "model.positions": 64,
        "length": 64,
        "batch": BATCH,
        "steps": STEPS,
        "layout": "fsdp_tensor" if tensor else "fsdp",
        "checkpoint.every_steps": 2,
        "logging.every_steps": 1,
        "logging.tensorboard": False,
        "evaluation.every_steps": 0,
        "evaluation.sample_every_steps": 0,
        **{f"mesh.{axis}": size for axis, size in {"data": 1, **mesh}.items()},
    }


def start_trainer(run: Path, store: Path, split) -> list[subprocess.Popen]:
    processes, devices, mesh = split
    port = free_ports()
    started = []
    for index in range(processes):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        if processes > 1:
            env |= {
                "GESSO_COORDINATOR": f"127.0.0.1:{port}",
                "GESSO_PROCESS": str(index),
                "GESSO_PROCESSES": str(processes),
            }
        settings = json.dumps(overrides(store, mesh, tensor="tensor" in mesh))
        command = [sys.executable, str(HERE / "pretrain/train_worker.py"), "debug-gpt-neo"]
        started.append(begin([*command, str(run), settings], run.with_suffix(".out"), env))
    return started


def begin(command: list[str], log: Path, env: dict | None = None) -> subprocess.Popen:
    """A process in a group of its own, whose output is added to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)


def start_builder(sources: list[Path], store: Path) -> subprocess.Popen:
    code = (
        "import json, sys\nfrom gesso.data.store.build import build\n"
        "from gesso.data.tokenizers.load import load_tokenizer\n"
        "sources, folder = json.loads(sys.argv[1])\n"
        "build(sources=sources, folder=folder, tokenizer=load_tokenizer('bytes'),"
        " part_tokens_first=1 << 14, part_tokens_cap=1 << 17)\n"
    )
    arguments = json.dumps([[str(path) for path in sources], str(store)])
    return begin([sys.executable, "-c", code, arguments], store.with_suffix(".out"))


def kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def wait(processes: list[subprocess.Popen], seconds: float) -> bool:
    """Whether all of them ended by themselves, and well, within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return all(code == 0 for code in codes)
        time.sleep(0.05)
    return False


def wait_for_a_moment(processes: list[subprocess.Popen], run: Path, chance: random.Random) -> bool:
    """A random moment to kill at: seconds after the start, while starting, or within the first few
    updates, so that no machine is too fast to be killed often. True where the run ended before."""
    metrics = run / "metrics.jsonl"

    def written() -> int:
        return metrics.read_bytes().count(b'"train"') if metrics.exists() else 0

    until, reached = time.monotonic() + chance.uniform(1.0, 9.0), written() + chance.randint(1, 3)
    while time.monotonic() < until and written() < reached:
        if wait(processes, 0.1):
            return True
    return wait(processes, chance.uniform(0.0, 0.2))


def records(run: Path) -> dict[int, dict]:
    from gesso.records.metrics import read_metrics

    found = [r for r in read_metrics(run) if r["kind"] == "train"]
    by_step = {r["step"]: r for r in found}
    assert len(by_step) == len(found), "a step is on record twice"
    return by_step


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".tok", ".off", ".json", ".jsonl") and "plan" not in path.name
    }


def chaos(folder: Path, sources: list[Path], *, kills: int, seed: int, splits) -> int:
    """Train to the end under `kills` kill -9s; how many there were. The first half also kills the
    builder that the trainer reads from."""
    chance, done, starts = random.Random(seed), 0, 0
    while True:
        split = splits[starts % len(splits)]
        starts += 1
        builder = start_builder(sources, folder / "store")
        while not (folder / "store/meta.json").exists():
            assert builder.poll() in (None, 0), "the builder failed; see store.out"
            time.sleep(0.05)
        trainer = start_trainer(folder / "run", folder / "store", split)
        last = done >= kills
        ended = wait(trainer, 600) if last else wait_for_a_moment(trainer, folder / "run", chance)
        if ended:
            assert wait([builder], 300)
            return done
        if last:
            kill([*trainer, builder])
            raise AssertionError("the run did not end by itself; see run.out")
        victims = chance.choice([[builder], trainer[:1], [*trainer, builder]])
        kill(victims)
        done += 1
        # What was not killed must notice by itself, or be replaced: the next start wants the lock.
        kill([*trainer, builder])


def compare(reference: Path, tried: Path, *, exact: bool) -> float:
    """Assert the same rows, batches and losses; the largest difference of a loss."""
    a, b = records(reference), records(tried)
    assert sorted(a) == sorted(b) == list(range(1, STEPS + 1))
    worst = 0.0
    for step in a:
        assert b[step]["rows"] == [(step - 1) * BATCH, step * BATCH]
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens"):
            assert a[step][key] == b[step][key], (step, key)
        worst = max(worst, abs(a[step]["loss"] - b[step]["loss"]))
    assert worst == 0.0 if exact else worst < 1e-4
    return worst


def kill_test(folder: Path, *, kills: int) -> str:
    from gesso.data.embedded.corpus import write_embedded

    shutil.rmtree(folder, ignore_errors=True)
    sources = write_embedded(folder / "corpus", megabytes=1.5, shards=3)
    for name in ("quiet", "same", "changing"):
        (folder / name).mkdir()
    half = kills // 2
    assert chaos(folder / "quiet", sources, kills=0, seed=0, splits=SPLITS[:1]) == 0
    same = chaos(folder / "same", sources, kills=half, seed=1, splits=SPLITS[:1])
    compare(folder / "quiet/run", folder / "same/run", exact=True)
    changing = chaos(folder / "changing", sources, kills=kills - half, seed=2, splits=SPLITS)
    worst = compare(folder / "quiet/run", folder / "changing/run", exact=False)
    assert same + changing == kills, "the run ended before it could be killed that often"
    for name in ("same", "changing"):
        assert tree(folder / name / "store") == tree(folder / "quiet/store")
    return (
        f"{same} kills on the same mesh: every loss bit-equal; {changing} kills with processes,"
        f" devices and mesh changing: rows and batches equal, losses within {worst:.1e};"
        f" token stores byte-identical"
    )


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    assert "bit-equal" in kill_test(tmp_path / "kill", kills=20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("runs/kill-test"))
    asked = parser.parse_args()
    began = time.monotonic()
    print(kill_test(asked.folder.resolve(), kills=asked.kills))
    print(f"{time.monotonic() - began:.0f} s")
