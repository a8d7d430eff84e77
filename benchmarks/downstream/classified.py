"""Rows of labelled texts: `gesso task build`, GPT-1's way of fine-tuning from either start, and
accuracy beside the commonest label and TF-IDF."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.downstream.commands import Commands, evaluations
from benchmarks.downstream.floors import classification_floors
from benchmarks.downstream.models import STARTS, Sizes, finetune, quiet


@dataclass(frozen=True, kw_only=True)
class Classified:
    """texts: the fields that hold an example's text or pair. length: tokens a row predicts; what is
    longer loses its middle. per_row: the most examples of a row. epochs, seeds: of every start."""

    about: str
    texts: tuple[str, ...] = ("text",)
    length: int = 128
    batch: int = 16
    per_row: int = 8
    epochs: int = 2
    seeds: int = 2


CLASSIFIED = {
    "sentence_polarity": Classified(about="is a sentence of a film review positive?"),
    "subjectivity": Classified(about="is a sentence of a review or of a plot?"),
    "movie_reviews": Classified(
        about="is a film review (mean 746 words) positive?", length=256, batch=8, per_row=1,
    ),
    "gsm8k": Classified(
        about="is a model's recorded solution of a word problem right?",
        texts=("question", "solution"), length=512, batch=4, per_row=4, epochs=1, seeds=1,
    ),
}  # fmt: skip


def classified(
    name: str, row: Classified, commands: Commands, folder: Path, sizes: Sizes, told: Any
) -> dict[str, Any]:
    """The figures of one row; `told(what)` before each run. Reads folder/files/NAME."""
    files = folder / "files" / name
    store = folder / "stores" / name
    built = commands.json(
        *("task", "build", files / "train.jsonl", store, "--task", "classify", "--name", name),
        *("--heldout", files / "heldout.jsonl", "--tokenizer", folder / "tokenizer"),
        *("--label", "label", "--texts", *row.texts),
    )
    steps = row.epochs * updates(built, row)
    settings = {
        "data.store": store,
        "model.labels": len(built["labels"]),
        "objective.lm": 0,
        "objective.per-row": row.per_row,
        "objective.cut": "middle",
        # Ids beyond the vocabulary were GPT-1's: here the end of a document frames a text.
        **{f"objective.{each}": -1 for each in ("cls", "sep", "end")},
        "optimizer.learning-rate": 1e-3,
        "optimizer.schedule.warmup-steps": max(steps // 10, 1),
        "length": min(row.length, sizes.length),
        "batch": row.batch,
        **quiet(steps),
    }
    found: dict[str, list[Any]] = {start: [] for start in STARTS}
    for start in STARTS:
        for seed in range(row.seeds):
            told(f"{name}, {start}, seed {seed}")
            run = folder / "runs" / f"{name}-{start}-{seed}"
            base = folder / "pretrained"
            finetune(
                commands, "gpt1-classify", run, settings,
                start=start, base=base, sizes=sizes, seed=seed,
            )  # fmt: skip
            found[start].append(evaluations(run)[-1]["task"]["scores"])
    told(f"{name}, floors")
    floors = classification_floors(files / "train.jsonl", files / "heldout.jsonl", texts=row.texts)
    return {
        "about": row.about,
        "metric": "accuracy",
        "examples": {"train": built["count"]["train"], "heldout": built["count"]["holdout"]},
        "majority": floors["majority"],
        "tfidf": floors["tfidf"],
        "scores": {start: [each["accuracy"] for each in found[start]] for start in STARTS},
        "settings": {"steps": steps, "length": settings["length"], "batch": row.batch},
        "more": {"tfidf_macro_f1": floors["tfidf_macro_f1"], **found},
    }


def updates(built: dict[str, Any], row: Classified) -> int:
    """Updates of one epoch: rows that examples of so many tokens fill to nineteen twentieths, or
    one example a row."""
    examples = built["count"]["train"]
    framed = built["tokens"]["train"]["tokens"] + (1 + len(row.texts)) * examples
    rows = examples if row.per_row == 1 else framed / (0.95 * row.length)
    return math.ceil(max(rows, examples / row.per_row) / row.batch)
