"""What transformers makes of a folder: a script for a Python that has torch and transformers.

    PYTHON export/theirs.py FOLDER ASKED.npz MADE.npz

It imports nothing of ours, so that the two stacks never share a process. ASKED holds a batch under
the names of transformers ("input_ids", ...), `texts` to tokenize and `new_tokens` to generate;
MADE gets "versions", every float output ("logits", "hidden/0", ...), "ids/0", ... and "generated".
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: str, asked: str, made: str) -> None:
    """Load the folder as its `architectures` say, run the batch, save every output."""
    leave_folder()
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    record = json.loads((Path(folder) / "config.json").read_text())
    given = dict(np.load(asked))
    texts = [str(each) for each in given.pop("texts", np.array([]))]
    new_tokens = int(given.pop("new_tokens", 0))
    torch.set_num_threads(1)
    model_class = getattr(transformers, record["architectures"][0])
    model, info = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    found: dict[str, Any] = {
        "versions": np.array(
            [f"transformers {transformers.__version__}, torch {torch.__version__}"]
        ),
        "missing": np.array(sorted(map(str, info["missing_keys"]))),
        "unexpected": np.array(sorted(map(str, info["unexpected_keys"]))),
    }
    model = model.float().eval()
    batch = {name: torch.from_numpy(x).long() for name, x in given.items()}
    with torch.no_grad():
        for name, value in model(**batch, output_hidden_states=True).items():
            if torch.is_tensor(value) and value.is_floating_point():
                found[name] = value.numpy()
            elif "hidden_states" in name and isinstance(value, tuple):
                prefix = name.replace("hidden_states", "hidden")
                found |= {f"{prefix}/{i}": each.numpy() for i, each in enumerate(value)}
        if new_tokens:
            first = {
                name: x for name, x in batch.items() if name in ("input_ids", "attention_mask")
            }
            options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
            ids = model.generate(**first, do_sample=False, pad_token_id=0, **options)
            found["generated"] = ids.numpy()
    if texts:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        found["tokenizer"] = np.array([type(tokenizer).__name__])
        for i, text in enumerate(texts):
            found[f"ids/{i}"] = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    np.savez(made, **found)


def leave_folder() -> None:
    """Take this file's folder, which Python puts first where it runs a file, off the path: its
    `tokenizers` would be imported in place of the library."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [each for each in sys.path if Path(each).resolve() != here]


if __name__ == "__main__":
    main(*sys.argv[1:])
