"""A client's script in the client's own Python: arrays in, arrays out, no network."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stacks.venvs import python_of

SCRIPTS = Path(__file__).with_name("clients")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def outside(work: Path) -> dict[str, Any]:
    """How a process of another stack is started: our code not on its path, nothing downloaded."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = {"JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "0", "OMP_NUM_THREADS": "1"}
    return {"env": kept | OFFLINE | quiet, "cwd": work, "capture_output": True, "text": True}


def run_client(
    script: str,
    path: Path | str,
    asked: Mapping[str, np.ndarray],
    *,
    client: str,
    timeout_seconds: int = 600,
) -> dict[str, np.ndarray]:
    """What a script in clients/ makes of a folder or file. Raises NoClient where no Python has the
    client, RuntimeError with its last words where it fails."""
    python = python_of(client)
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "asked.npz", Path(place) / "made.npz"
        arrays: dict[str, Any] = dict(asked)
        np.savez(given, **arrays)
        done = subprocess.run(
            [python, "-W", "ignore", str(SCRIPTS / script), str(path), str(given), str(made)],
            timeout=timeout_seconds,
            **outside(Path(place)),
        )
        if done.returncode:
            raise RuntimeError(f"{script}: {done.stderr.strip()[-600:]}")
        with np.load(made) as found:
            return dict(found)
