"""Rows of instructions: one instruction tuning of both sets, then the right one of four outputs for
tasks that were held out, beside always the same place and the option most like the prompt."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.downstream.commands import Commands
from benchmarks.downstream.floors import choice_floors
from benchmarks.downstream.models import STARTS, Sizes, finetune, quiet
from gesso.data.tokenizers.load import load_tokenizer
from gesso.finetune.instructions.build import preview
from gesso.finetune.instructions.config import FormsConfig, InstructionsConfig, SourceConfig
from gesso.finetune.instructions.render import Rendered, join_texts

INSTRUCTED = {
    "self_instruct": "which of four outputs does an instruction ask for?",
    "niv2_definitions": "the same of Natural Instructions, whole tasks held out",
}
FORMATS: dict[str, Any] = {
    "self_instruct": ("self_instruct", ".jsonl"),
    "niv2_definitions": ("natural_instructions", ".json"),
}
# Options are compared by their log-probability per token: settled before any was scored.
RULE = "token"
OPTIONS, LONGEST = 4, 160
EPOCHS, SEEDS, BATCH = 2, 1, 4


def tuned(commands: Commands, folder: Path, sizes: Sizes, told: Any) -> dict[str, list[Path]]:
    """{start: runs, one per seed}, tuned on both training files."""
    recipe = folder / "recipe.toml"
    sources = [
        f'[[sources]]\npath = "{folder / "files" / name / f"train{end}"}"\n'
        f'format = "{form}"\ncluster = "{name}"\n'
        for name, (form, end) in FORMATS.items()
    ]
    head = f'tokenizer = "{folder / "tokenizer"}"\nmax_tokens = {sizes.length}\n'
    recipe.write_text("\n".join([head, *sources]))
    store = folder / "stores" / "instructions"
    built = commands.json("instructions", "build", recipe, "--folder", store)
    tokens = sum(each["train"]["tokens"] for each in built["components"].values())
    steps = math.ceil(EPOCHS * tokens / (0.95 * sizes.length * BATCH))
    settings = {
        "data.store": store,
        "optimizer.name": "adamw",
        "optimizer.learning-rate": 1e-3,
        "optimizer.clip-norm": 1,
        "optimizer.schedule.kind": "linear",
        "optimizer.schedule.warmup-steps": max(steps // 10, 1),
        "length": sizes.length,
        "batch": BATCH,
        **quiet(steps),
    }
    runs: dict[str, list[Path]] = {start: [] for start in STARTS}
    for start in STARTS:
        for seed in range(SEEDS):
            told(f"instructions, {start}, seed {seed}")
            run = folder / "runs" / f"instructions-{start}-{seed}"
            base = folder / "pretrained"
            finetune(
                commands, "flan", run, settings, start=start, base=base, sizes=sizes, seed=seed
            )
            runs[start].append(run)
    return runs


def instructed(
    name: str, commands: Commands, folder: Path, sizes: Sizes, told: Any
) -> dict[str, Any]:
    """The figures of one row; runs that another row made are there at once."""
    questions = folder / "questions" / f"{name}.jsonl"
    counts = write_questions(folder, name, questions)
    runs = tuned(commands, folder, sizes, told)
    base = folder / "pretrained"

    def asked(run: Path) -> float:
        told(f"{name}, asked of {run.name}")
        found = commands.json("evaluate", run, "--choices", questions)
        return found["rules"][RULE]["accuracy"]

    scores = {start: [asked(run) for run in each] for start, each in runs.items()}
    texts = [line["text"] for line in map(json.loads, _corpus(folder).read_text().splitlines())]
    return {
        "about": INSTRUCTED[name],
        "metric": f"accuracy of {OPTIONS} options, by log-probability per token",
        "examples": {"train": counts["train"], "heldout": counts["questions"]},
        **choice_floors(texts, questions),
        "scores": scores,
        "before": asked(base),
        "settings": {"epochs": EPOCHS, "length": sizes.length, "batch": BATCH},
        "more": counts,
    }


def write_questions(folder: Path, name: str, path: Path) -> dict[str, int]:
    """Questions about held-out examples, as `gesso evaluate --choices` reads them; how many.

    Each example's first rendering without a list of options, its own output and those of other
    held-out examples with other words, in a drawn order. Outputs of more than LONGEST tokens make
    no question ("too_long").
    """
    form, end = FORMATS[name]
    files = folder / "files" / name
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = InstructionsConfig(
        sources=(SourceConfig(path=str(files / f"heldout{end}"), format=form),),
        tokenizer=str(folder / "tokenizer"),
        forms=FormsConfig(options=0, inverted=0),
        renderings=1,
        holdout=0,
    )
    examples = [each[0] for *_, each in preview(config, config.sources[0], examples=1 << 30)]
    short = [
        (each.prompt, each.target.strip())
        for each in examples
        if isinstance(each, Rendered) and len(tokenizer.encode(each.target)) <= LONGEST
    ]
    lines = [json.dumps(each) for each in _drawn(short)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    train = (files / f"train{end}").read_text()
    return {
        "train": len(json.loads(train)) if end == ".json" else len(train.splitlines()),
        "questions": len(lines),
        "too_long": len(examples) - len(short),
    }


def _drawn(examples: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(0)
    questions = []
    for prompt, target in examples:
        options = [target]
        while len(options) < OPTIONS:
            other = examples[int(drawn.integers(len(examples)))][1]
            if other.lower() not in {each.lower() for each in options}:
                options.append(other)
        order = drawn.permutation(OPTIONS).tolist()
        # The separator is a part of the option where it is a space
        # (finetune.instructions.render.join_texts).
        asked = [join_texts(prompt, options[k]) for k in order]
        questions.append(
            {"prompt": asked[0][0], "options": [each for _, each in asked], "right": order.index(0)}
        )
    return questions


def _corpus(folder: Path) -> Path:
    return folder / "files" / "corpus" / "instructions.jsonl"
