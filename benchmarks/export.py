"""gesso import and export of a checkpoint as large as GPT-Neo 1.3B: memory and time.

    python -m benchmarks.export [--folder DIR] [--quick]

Prints one JSON document. A folder as others publish it (GPT-Neo's layout, random float32 weights)
is imported and exported by the commands themselves, each in a process of its own, at two sizes.

base: the peak (VmHWM) of the same command on a model of a few kilobytes. largest: the bytes of the
largest array of the checkpoint, one parameter of all layers. memory ratio of import: (peak - base)
/ largest; of export, which runs the model: (peak - base - all parameters) / largest. Limit of both:
1.3. Time: seconds of the command, from the start of its process to the last fsync, over those of
copying the same files with fsync in the same folder, nothing in the page cache before either;
copies are made before and after, and their mean is taken. Limit: 1.5. The seconds of the
tiny model's command (start-up, compilation) are given beside, and not taken off.
bound_6b: what the two ratios at most mean for GPT-J 6B.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gesso.export.formats import format_for
from gesso.export.tables.tables import Paths, places, slots
from gesso.export.writing_weights import write_weights
from gesso.models import GPTConfig, build
from gesso.models.count import parameters

ROOT = Path(__file__).resolve().parents[1]
MEMORY_LIMIT, TIME_LIMIT = 1.3, 1.5
# GPT-Neo's widths: 1.3B as published, half its width, and one for what the commands cost anyway.
WIDTHS = {"tiny": (2, 64, 4, 300), "0.4b": (24, 1024, 16, 50257), "1.3b": (24, 2048, 16, 50257)}
GPT_J = {"layers": 28, "embed": 4096, "mlp": 16384, "parameters": 6_050_882_784}
CHILD = """
import sys
from gesso.launch.cli import main
status = main(sys.argv[1:])
line = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print("PEAK", int(line) * 1024)
sys.exit(status)
"""


def config_of(size: str) -> GPTConfig:
    """GPT-Neo of a size, every second layer local."""
    layers, embed, heads, vocab = WIDTHS[size]
    return GPTConfig(
        vocab=vocab,
        positions=2048 if size != "tiny" else 64,
        layers=layers,
        embed=embed,
        heads=heads,
        mlp=4 * embed,
        pattern=("global", "local"),
        window=256 if size != "tiny" else 16,
        attention_scale="none",
        biases=("attention_out", "mlp"),
        padding="reach",
    )


def publish(folder: Path, config: GPTConfig) -> None:
    """A folder as transformers has it, with random weights, a tensor in memory at a time."""
    folder.mkdir(parents=True)
    form, shapes = format_for(config), slots(build(config))
    random = np.random.default_rng(0)

    def draw(path: str) -> np.ndarray:
        x = random.standard_normal(shapes[path].shape, dtype=np.float32)
        x *= 0.02
        return x

    found = places(form.table(config), shapes)
    named = Paths(shapes, draw)
    size = 5_000_000_000
    write_weights(folder, found, named, dtype="float32", max_shard_bytes=size, copies={})
    (folder / "config.json").write_text(json.dumps(form.write(config)))


def measured(*command: str, seconds: int) -> dict[str, float]:
    """Peak bytes and seconds of one gesso command. Raises RuntimeError with what it said."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *command],
        cwd=ROOT,
        env={"JAX_PLATFORMS": "cpu", **os.environ},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"gesso {' '.join(command)}: {done.stderr[-2000:]}")
    return {"peak": int(done.stdout.split("PEAK")[-1]), "seconds": took}


def copied(source: Path, to: Path) -> float:
    """Seconds of copying a folder, all of it on disk at the end; the copy is removed."""
    forgotten(source)
    start = time.perf_counter()
    shutil.copytree(source, to)
    for path in (each for each in to.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    took = time.perf_counter() - start
    shutil.rmtree(to)
    return took


def forgotten(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for path in (each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_size(size: str, folder: Path, base: dict[str, Any] | None, *, seconds: int) -> Any:
    """Import and export of one size; ratios against `base`, the tiny model's figures."""
    config, place = config_of(size), folder / size
    published, run, out = place / "published", place / "run", place / "out"
    publish(published, config)
    said = {"cwd": str(place), "import": ["import", str(published), str(run)]}
    commands = {
        "import": [*said["import"], "--tokenizer", "bytes"],
        "export": ["export", str(run), str(out)],
    }
    sources = {"import": published, "export": run}
    total = 4 * parameters(config)["total"]
    largest = max(4 * math.prod(slot.shape) for slot in slots(build(config)).values())
    found: dict[str, Any] = {"parameters": total // 4, "bytes": total, "largest": largest}
    for name, command in commands.items():
        before = copied(sources[name], place / "copy") if base else 0.0
        forgotten(sources[name])
        made: dict[str, Any] = measured(*command, seconds=seconds)
        if base:
            after = copied(sources[name], place / "copy")
            mesh = total if name == "export" else 0
            made |= {
                "copy_seconds": [round(before, 2), round(after, 2)],
                "memory_ratio": round((made["peak"] - base[name]["peak"] - mesh) / largest, 3),
                "time_ratio": round(2 * made["seconds"] / (before + after), 2),
            }
        found[name] = made | {"seconds": round(made["seconds"], 2)}
        if name == "export" or not base:
            continue
        shutil.rmtree(published)  # the disk may not hold it beside the run and its export
    shutil.rmtree(place)
    return found


def bound_6b(ratios: dict[str, float]) -> dict[str, Any]:
    """Peak bytes of GPT-J 6B by the worst ratios measured, beyond what any command takes."""
    largest = 4 * GPT_J["layers"] * GPT_J["embed"] * GPT_J["mlp"]
    weights = 4 * GPT_J["parameters"]
    return {
        "largest": largest,
        "import": round(max(1.0, ratios["import"]) * largest),
        "export": round(weights + max(0.0, ratios["export"]) * largest),
        "weights": weights,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of import and export.")
    parser.add_argument("--folder", type=Path, help="where 16 GB are free; default: temporary")
    parser.add_argument("--quick", action="store_true", help="the smaller size alone")
    parser.add_argument("--seconds", type=int, default=1800, help="limit of one command")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="gesso-export-") as name:
        folder = Path(name)
        base = one_size("tiny", folder, None, seconds=asked.seconds)
        sizes = {
            size: one_size(size, folder, base, seconds=asked.seconds)
            for size in ("0.4b", *([] if asked.quick else ["1.3b"]))
        }
    worst = {
        what: max(each[what]["memory_ratio"] for each in sizes.values())
        for what in ("import", "export")
    }
    slowest = {
        what: max(each[what]["time_ratio"] for each in sizes.values())
        for what in ("import", "export")
    }
    found = {
        "memory": worst | {"limit": MEMORY_LIMIT},
        "time": slowest | {"limit": TIME_LIMIT},
        "sizes": sizes,
        "tiny": base,
        "bound_6b": bound_6b(worst),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
