"""Two small public-domain corpora, two tokenizers each, through the command line to a perplexity.

    .venv/bin/python -m benchmarks.small_corpora --data ../shared/data --steps 300

Prints one JSON document: per corpus and tokenizer the held-out perplexity per token and per word,
the bits per byte, and what a unigram model and a byte 3-gram reach on the same held-out text.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

GESSO = (sys.executable, "-m", "gesso.launch.cli")
MODEL = {"bytes": 264, "sentencepiece": 2048}


def gesso(*arguments: object) -> str:
    """Run a gesso command; what it prints. Raises CalledProcessError when it fails."""
    command = [*GESSO, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def texts(data: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """{corpus: (source, text_split)}; archives are unpacked under `folder`."""
    with zipfile.ZipFile(data / "nltk_state_union/state_union.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".txt"):
                raw = archive.read(name).decode("utf-8", errors="replace")
                target = folder / "state_union" / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(raw)
    return {
        # Speeches, between blank lines.
        "tiny_shakespeare": (data / "tiny_shakespeare/input.txt", "blank_line"),
        "state_union": (folder / "state_union", "file"),
    }


def measure(name: str, source: Path, split: str, kind: str, *, folder: Path, steps: int) -> Any:
    """Tokenizer, store, training and evaluation of one corpus; its figures."""
    tokenizer: object = "bytes"
    if kind == "sentencepiece":
        tokenizer = folder / f"{name}-tokenizer"
        gesso("tokenizer", "train", source, "--folder", tokenizer, "--vocab-size", MODEL[kind])
    store = folder / f"{name}-{kind}"
    build = ("--tokenizer", tokenizer, "--text-split", split, "--holdout", 0.1)
    gesso("corpus", "build", source, "--folder", store, *build, "--component-key", "")
    run = folder / f"{name}-{kind}-run"
    settings = {
        "data.store": store,
        "model.vocab": MODEL[kind],
        "model.positions": 256,
        "length": 256,
        "steps": steps,
        "evaluation.every-steps": steps,
        "evaluation.rows": 0,
        "evaluation.sample-every-steps": 0,
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    gesso("pretrain", "quickstart", "--folder", run, *flags)
    return json.loads(gesso("evaluate", run, "--rows", 0, "--json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/small-corpora"))
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    found = {
        f"{name}/{kind}": measure(name, source, split, kind, folder=asked.folder, steps=asked.steps)
        for name, (source, split) in texts(asked.data, asked.folder).items()
        for kind in MODEL
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
