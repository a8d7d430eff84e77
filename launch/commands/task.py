"""`gesso task build|inspect`: files of labelled examples to a store that runs are fine-tuned on."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from gesso.finetune.labelled.config import TaskConfig, TaskSettings
from gesso.launch.console import Figures, Refused, existing, narration, output, print_json
from gesso.pretrain.exits import DONE

if TYPE_CHECKING:
    from gesso.data.labelled.store import TaskStore
    from gesso.data.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Build(TaskSettings):
    """Tokenize files of labelled examples, once, into a task store.

    The last path is the store; those before it are what is trained on. A record that is not an
    example (a broken line, a label outside the set, ...) is kept in STORE/rejects.jsonl with its
    file and line, and counted. The same files and settings give the same store; a second call
    returns at once. docs/tasks.md lists the known tasks.

    Examples:
      gesso task build SST-2/train.tsv sst2 --task sst2 --heldout SST-2/dev.tsv \\
          --tokenizer runs/bert/tokenizer
      gesso task build reviews.jsonl reviews --task classify --texts review --label stars
      gesso task build train.jsonl pairs --task regress --texts first second --label score
      gesso task build eng.train ner --task conll --format conll --heldout eng.testa
      gesso task build train-v1.1.json squad --task squad --heldout dev-v1.1.json
      gesso task build tfds:glue/rte:train rte --task rte --heldout tfds:glue/rte:validation
    """

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Files to train on, and last the store to make: FILES... STORE."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        return run_build(self)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a task store holds: labels, splits, rejects, and how much rows of a length cut.

    Example:
      gesso task inspect stores/sst2 --length 128
    """

    folder: tyro.conf.Positional[str]
    """Task store."""
    length: int = 128
    """Tokens of a row."""
    examples: int = 3
    """Examples to show."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        return run_inspect(self)


def run_build(options: Build) -> int:
    if len(options.paths) < 2:
        raise Refused("say the files and then the store: gesso task build FILES... STORE --task T")
    *files, folder = options.paths
    if Path(folder).is_file():
        raise Refused(f"{folder} is a file; the last path is the folder of the store to make")
    settings = {each.name: getattr(options, each.name) for each in fields(TaskSettings)}
    config = TaskConfig(files=tuple(files), **settings)
    from gesso.finetune.labelled.build import build_task

    store = build_task(config, folder, say=lambda line: narration().print(line, markup=False))
    if options.json:
        print_json(_facts(store))
    else:
        _show(store)
    return DONE


def run_inspect(options: Inspect) -> int:
    from gesso.data.config import FrameConfig
    from gesso.data.labelled.items import items_of
    from gesso.data.labelled.store import TaskStore

    store = TaskStore(existing(options.folder, what="task store"))
    tokenizer = store.tokenizer()
    special = tokenizer.special
    sep = (special.get("sep", store.eos),)
    frame = FrameConfig(first=(special.get("cls", store.eos),), between=sep, last=sep)
    cut = {
        split: items_of(store, split, frame, length=options.length).lost
        for split in ("train", "holdout")
        if store.count[split]
    }
    shown = [
        {
            "place": store.facts[k]["place"],
            "texts": _texts(store, tokenizer, k),
            **_target(store, k),
        }
        for k in range(min(options.examples, store.count["train"]))
    ]
    if options.json:
        print_json(_facts(store) | {"cut": cut, "examples": shown})
        return DONE
    _show(store)
    for split, lost in cut.items():
        windows = lost["windows"] - lost["examples"]
        more = f", {windows:,} further windows" if windows else ""
        output().print(
            f"{split} at {options.length} tokens: {lost['cut']:,} of {lost['examples']:,} examples"
            f" are cut, by {lost['tokens']:,} tokens{more}"
        )
    for each in shown:
        output().print(f"\n{each.pop('place')}", style="bold cyan", markup=False)
        for text in each.pop("texts"):
            output().print(text, markup=False, highlight=False)
        output().print(*each.values(), style="green", markup=False)
    return DONE


def _facts(store: "TaskStore") -> Figures:
    return {
        "folder": str(store.folder),
        "fingerprint": store.fingerprint,
        "kind": store.kind,
        "labels": list(store.labels),
        "count": store.count,
        "statistics": store.record["statistics"],
        "tokens": store.totals()[store.name],
        "rejects": store.rejects(),
        "duplicates": store.duplicates(),
        "counts": store.record["counts"],
    }


def _show(store: "TaskStore") -> None:
    from rich.table import Table

    console, facts = output(), _facts(store)
    count = store.count
    console.print(
        f"{store.folder}: {store.name} ({store.kind}), {count['train']:,} examples to train on,"
        f" {count['holdout']:,} held out, {facts['tokens']['train']['tokens']:,} tokens",
        markup=False,
    )
    found = facts["statistics"]
    if "labels" in found:
        table = Table(box=None)
        for title in ("id", "label", "training", "share"):
            table.add_column(title, justify="left" if title == "label" else "right")
        whole = sum(found["labels"])
        for k, (name, n) in enumerate(zip(store.labels, found["labels"], strict=True)):
            table.add_row(str(k), name, f"{n:,}", f"{n / whole:.1%}")
        console.print(table)
        console.print(f"--model.labels {len(store.labels)}", style="dim", markup=False)
    elif "mean" in found:
        console.print(f"numbers: mean {found['mean']:.4g}, deviation {found['deviation']:.4g}")
    else:
        console.print(f"{found['answered']:,} of the training questions have an answer")
    counts = facts["counts"]
    if refused := facts["rejects"]:
        listed = ", ".join(f"{reason} {n:,}" for reason, n in refused.items())
        console.print(f"refused (see {store.folder}/rejects.jsonl): {listed}", markup=False)
    if over := counts.get("over_limit"):
        console.print(f"left out by --limit: {over:,}")
    if facts["duplicates"]:
        leaked = counts.get("heldout_in_training", 0)
        console.print(
            f"duplicate texts: {facts['duplicates']:.2%}; held out and trained on: {leaked:,}"
        )


def _texts(store: "TaskStore", tokenizer: "Tokenizer", example: int) -> list[str]:
    pairs = zip(store.starts[example].tolist(), store.lengths[example].tolist(), strict=True)
    return [tokenizer.decode(store.read(start, size)) for start, size in pairs]


def _target(store: "TaskStore", example: int) -> Figures:
    if store.kind == "classify":
        return {"label": store.labels[int(store.leaves["labels"][example])]}
    if store.kind == "regress":
        return {"number": float(store.leaves["labels"][example])}
    if store.kind == "qa":
        return {"tokens of the context": store.leaves["answers"][example].tolist()}
    start, size = int(store.starts[example, 0]), int(store.lengths[example, 0])
    tags = store.leaves["tags"][start : start + size]
    return {"tags": " ".join(store.labels[tag] for tag in tags.tolist() if tag >= 0)}
