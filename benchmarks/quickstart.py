"""How long a newcomer waits: `gesso quickstart` with nothing cached, and what it reaches.

    python -m benchmarks.quickstart [--steps 0]

Prints one JSON object: seconds of the whole command (install excluded), held-out bits per byte of
the model and of the baselines, and the share of training that waited for data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="gesso quickstart with nothing cached.")
    parser.add_argument("--steps", type=int, default=0, help="0 = the experiment's own number")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), steps=asked.steps), indent=1))


def measure(folder: Path, *, steps: int) -> dict[str, Any]:
    run = folder / "run"
    command = [
        sys.executable,
        "-m",
        "gesso.launch.cli",
        "quickstart",
        "--folder",
        str(run),
        "--json",
    ]
    command += ["--steps", str(steps)]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "GESSO_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    told = json.loads(done.stdout)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steady = [each for each in records if each["kind"] == "train"][2:]
    waits = [each["data_wait_fraction"] for each in steady]
    return {
        "seconds": round(seconds, 1),
        "bits_per_byte": round(told["evaluation"]["bits_per_byte"], 4),
        "baselines": told["evaluation"]["baselines"],
        "over_best_baseline": round(
            told["evaluation"]["bits_per_byte"] / min(told["evaluation"]["baselines"].values()), 4
        ),
        "data_wait_fraction": round(sum(waits) / max(len(waits), 1), 5),
        "steps": steady[-1]["step"] if steady else 0,
    }


if __name__ == "__main__":
    main()
