"""Runs in a Python that has orbax-checkpoint, and none of our code: a params-only checkpoint.

python weights.py folder asked.npz made.npz
asked: nothing. made: versions, and every array by its path with dots.
"""
# pyright: reportMissingImports=false

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


def main(folder: str, asked: str, made: str) -> None:
    restored = ocp.StandardCheckpointer().restore(Path(folder).resolve() / "params")
    found: dict[str, Any] = {
        ".".join(each.key for each in path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(restored)
    }
    np.savez(made, versions=np.array([f"orbax-checkpoint {version('orbax-checkpoint')}"]), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
