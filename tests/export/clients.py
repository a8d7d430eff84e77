"""Other stacks' programs in the tests: which Python has them, and running them there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "stacks" / "clients"
# client -> (its package, the variable that names a Python with it)
PACKAGES = {
    "ct2": ("ctranslate2", "GESSO_CTRANSLATE2_PYTHON"),
    "llama_cpp": ("xllamacpp", "GESSO_LLAMA_PYTHON"),
}


def run_client(client, path, tmp_path, **asked):
    """What a client makes of a folder or file, or the test is skipped where it is not installed."""
    package, variable = PACKAGES[client]
    python = os.environ.get(variable)
    if not python and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed, and {variable} names no Python that has it")
    given, made = tmp_path / "asked.npz", tmp_path / "made.npz"
    np.savez(given, **asked)
    command = [python or sys.executable, str(SCRIPTS / f"{client}.py"), str(path), given, made]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(made) as found:
        return dict(found)
