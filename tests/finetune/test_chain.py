"""The whole way on the command line: pretrain, instructions, evaluation before and after, LoRA on
top, merged and exported, and the same texts in transformers and peft.

Needs shared/data beside the checkout, and Pythons with transformers and peft, named in
GESSO_TRANSFORMERS_PYTHON and GESSO_PEFT_PYTHON. It was run with transformers 5.23, peft 0.21.2 and
torch 2.13.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gesso.pretrain.open import open_run

CHECKOUT = Path(__file__).parents[2]
DATA = CHECKOUT.parent / "shared/data"
SELF_INSTRUCT = DATA / "self_instruct/seed_tasks.jsonl"
DEFINITIONS = DATA / "niv2_definitions/niv2_definitions_examples.json"
PYTHONS = {
    name: os.environ.get(name, "") for name in ("GESSO_TRANSFORMERS_PYTHON", "GESSO_PEFT_PYTHON")
}
missing = [str(path) for path in (SELF_INSTRUCT, DEFINITIONS) if not path.is_file()]
missing += [f"${name}" for name, python in PYTHONS.items() if not python]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not there: {', '.join(missing)}"),
]
RECIPE = f"""
tokenizer = "base/tokenizer"
renderings = 2
holdout = 0.1
max_tokens = 256

[forms]
few_shot = 0.3

[[sources]]
path = "{SELF_INSTRUCT}"
format = "self_instruct"
cluster = "self_instruct"

[[sources]]
path = "{DEFINITIONS}"
format = "natural_instructions"
cluster = "niv2"
limit = 300
"""
PROMPTS = ["Task: Write a word.\n\nOutput:", "def run(self):\n", "Is this a question? It"]
WRITTEN = 16


@pytest.fixture
def gesso(tmp_path):
    """Runs `gesso ...` as a process of its own, in tmp_path; its stdout."""

    def run(*arguments):
        command = [sys.executable, "-m", "gesso.launch.cli", *map(str, arguments)]
        environ = os.environ | {"PYTHONPATH": str(CHECKOUT), "XLA_FLAGS": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{arguments}\n{done.stderr[-3000:]}"
        return done.stdout

    return run


def elsewhere(folder, python, base, adapter=""):
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    script = Path(__file__).parent / "chain_side.py"
    command = [PYTHONS[python], script, base, adapter, "prompts.json", WRITTEN, "out.npz"]
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "out.npz"))


def test_from_pretraining_to_other_stacks(gesso, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a run names its base as it was named
    sizes = ["--batch", 8, "--length", 256, "--evaluation.rows", 16, "--evaluation.every-steps", 20]
    gesso(
        "pretrain", "debug-gpt-neo", "--folder", "base", "--data.store", "embedded:bpe:0.3",
        "--model.vocab", 4096, "--steps", 40, "--length", 256, "--batch", 8,
    )  # fmt: skip
    (tmp_path / "recipe.toml").write_text(RECIPE)
    built = json.loads(gesso("instructions", "build", "recipe.toml", "--folder", "told", "--json"))
    assert set(built["components"]) == {"self_instruct", "niv2"} and not built["rejects"]
    gesso(
        "finetune", "flan", "--start", "base", "flan", "--data.store", "told", "--steps", 60,
        "--optimizer.learning-rate", 3e-3, *sizes,
    )  # fmt: skip

    # Before and after, on the same held-out examples.
    asked = ["--store", "told", "--baselines", "skip", "--json"]
    before, after = (json.loads(gesso("evaluate", run, *asked)) for run in ("base", "flan"))
    assert before["tokens"] == after["tokens"] > 500
    for name in ("self_instruct", "niv2"):
        assert after["components"][name]["loss"] < before["components"][name]["loss"] - 0.1
    answers = ["--answers", "told", "--limit", 12, "--max-tokens", WRITTEN, "--json"]
    compared = json.loads(gesso("evaluate", "flan", *answers, "--against", "base"))
    assert set(compared["compared"]) == {"exact", "f1"} and compared["exercises"] == 12

    gesso(
        "finetune", "debug-lora", "--start", "flan", "lora", "--data.store", "told",
        "--adapter.rank", 4, *sizes,
    )  # fmt: skip
    gesso("adapter", "merge", "lora", "merged")
    gesso("export", "merged", "out/merged", "--format", "hf")
    gesso("export", "flan", "out/flan")
    gesso("adapter", "export", "lora", "out/lora", "--base-name", "out/flan")

    command = ["generate", "lora", "--json", "--max-tokens", WRITTEN, "--prompt", *PROMPTS]
    ours = [each["text"] for each in json.loads(gesso(*command))]
    others = {
        "transformers": elsewhere(tmp_path, "GESSO_TRANSFORMERS_PYTHON", "out/merged"),
        "peft": elsewhere(tmp_path, "GESSO_PEFT_PYTHON", "out/flan", "out/lora"),
    }
    opened = {name: open_run(tmp_path / name) for name in ("lora", "flan")}
    logits = {name: jax.jit(each.model.apply) for name, each in opened.items()}
    changed = 0.0
    for name, found in others.items():
        for number, prompt in enumerate(PROMPTS):
            tokens = opened["lora"].tokenizer.encode(prompt)
            assert tokens.tolist() == found[f"tokens/{number}"].tolist()
            batch = {"tokens": np.asarray(tokens, np.int32)[None]}
            (mine,), (base,) = (
                logits[each](opened[each].params, batch)["logits"] for each in ("lora", "flan")
            )
            theirs = found[f"logits/{number}"]
            changed = max(changed, float(np.abs(mine - base).max()))
            difference = float(np.abs(mine - theirs).max())
            print(f"{name}, prompt {number}: logits differ by at most {difference:.2e}")
            # float32 rounding of sums in another order
            assert difference < 2e-5 * max(1.0, float(np.abs(theirs).max()))
            assert ours[number] == str(found[f"text/{number}"])
    print(f"loss before {before['loss']:.4f}, after {after['loss']:.4f}; LoRA moves {changed:.3f}")
    assert changed > 0.01  # the adapter is not nothing, so the agreement above says something
