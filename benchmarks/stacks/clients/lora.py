"""Runs in a Python that has torch, transformers and peft: an adapter over the base it names.

python lora.py folder asked.npz made.npz
asked: the base's inputs by name. made: versions, and its outputs by name.
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers


def main(folder: str, asked: str, made: str) -> None:
    torch.set_num_threads(1)
    base = json.loads((Path(folder) / "adapter_config.json").read_text())["base_model_name_or_path"]
    kind = json.loads((Path(base) / "config.json").read_text())["architectures"][0]
    model: Any = getattr(transformers, kind).from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, folder).eval()
    with np.load(asked) as given:
        batch = {name: torch.from_numpy(x).long() for name, x in given.items()}
    with torch.no_grad():
        outputs = model(**batch).items()
    found: dict[str, Any] = {
        name: x.numpy() for name, x in outputs if torch.is_tensor(x) and x.is_floating_point()
    }
    versions = f"peft {peft.__version__}"
    np.savez(made, versions=np.array([versions]), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
