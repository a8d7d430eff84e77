"""Runs in a Python that has ctranslate2: a model folder on rows of ids.

python ct2.py folder asked.npz made.npz
asked: kind "decoder", "encoder" or "encoder-decoder"; tokens i32[B, L] (of an encoder-decoder the
ids to score, and source i32[B, S]); token_types i32[B, L] of an encoder.
made: versions; "logits" f32[B, L, V]; or "features" f32[B, L, D] and, where there is a pooler,
"pooled" f32[B, D]; or "token_log_probabilities" f32[B, L].
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np


def main(folder: str, asked: str, made: str) -> None:
    with np.load(asked) as given:
        found = run(Path(folder), dict(given))
    found["versions"] = np.array([f"ctranslate2 {ctranslate2.__version__}"])
    np.savez(made, **found)


def run(folder: Path, given: dict[str, np.ndarray]) -> dict[str, Any]:
    kind, tokens = str(given["kind"]), given["tokens"].tolist()
    options = {"device": "cpu", "intra_threads": 1, "inter_threads": 1}
    if kind == "decoder":
        model = ctranslate2.Generator(str(folder), **options)
        return {"logits": np.array(model.forward_batch(tokens))}
    if kind == "encoder":
        model = ctranslate2.Encoder(str(folder), **options)
        types = given["token_types"].tolist() if "token_types" in given else None
        made = model.forward_batch(tokens, token_type_ids=types)
        found = {"features": np.array(made.last_hidden_state)}
        if made.pooler_output is not None:
            found["pooled"] = np.array(made.pooler_output)
        return found
    pieces = json.loads((folder / "shared_vocabulary.json").read_text())

    def spelled(rows: list[list[int]]) -> list[list[str]]:
        return [[pieces[index] for index in row] for row in rows]

    model = ctranslate2.Translator(str(folder), **options)
    made = model.score_batch(spelled(given["source"].tolist()), spelled(tokens))
    return {"token_log_probabilities": np.array([each.log_probs for each in made], np.float32)}


if __name__ == "__main__":
    main(*sys.argv[1:])
