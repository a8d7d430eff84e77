"""Models of transformers with random weights, saved by transformers: a script for its Python.

    PYTHON tests/export/made_by_theirs.py make VARIANTS.json FOLDER
    PYTHON tests/export/made_by_theirs.py run THEIRS.py FOLDER...

`make` writes FOLDER/NAME for every {NAME: {"architecture", "model_type", "fields"}}. `run` does in
each FOLDER what export/theirs.py does with its asked.npz, to made.npz: one process, since importing
torch is what takes time.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def make(variants: str, folder: str) -> None:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(1)
    for name, asked in json.loads(Path(variants).read_text()).items():
        torch.manual_seed(len(name))
        model_class = getattr(transformers, asked["architecture"])
        if asked["model_type"] == "encoder-decoder":
            sides = [
                transformers.AutoConfig.for_model(**asked["fields"][side])
                for side in ("encoder", "decoder")
            ]
            config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
            config.decoder_start_token_id, config.pad_token_id = asked["fields"]["start"], 0
        else:
            config = transformers.AutoConfig.for_model(asked["model_type"], **asked["fields"])
        model = model_class(config)
        for path, weight in model.named_parameters():
            torch.nn.init.normal_(weight, 0, 0.3)
            if "norm" in path.lower() or "ln_" in path:
                weight.data += 1.0
        model.tie_weights()
        model.eval().save_pretrained(Path(folder) / name)


def run(script: str, *folders: str) -> None:
    spec = importlib.util.spec_from_file_location("theirs", script)
    assert spec and spec.loader
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    for folder in folders:
        theirs.main(folder, f"{folder}/asked.npz", f"{folder}/made.npz")


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](*sys.argv[2:])
