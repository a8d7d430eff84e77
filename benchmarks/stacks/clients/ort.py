"""Runs in a Python that has onnxruntime: a graph on a batch.

python ort.py folder asked.npz made.npz
asked: the graph's inputs by name. made: versions, and its outputs by name.
"""
# pyright: reportMissingImports=false

import sys
from typing import Any

import numpy as np
import onnxruntime


def main(folder: str, asked: str, made: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    with np.load(asked) as given:
        results = session.run(None, dict(given))
    found: dict[str, Any] = dict(
        zip([each.name for each in session.get_outputs()], results, strict=True)
    )
    np.savez(made, versions=np.array([f"onnxruntime {onnxruntime.__version__}"]), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
