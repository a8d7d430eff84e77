"""The files of a store of labelled examples, written: data/labelled/store.py reads them."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gesso.data.labelled.store import FORMAT, LEAVES, RECORD, Kind, TaskStore, is_task_store
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import save_tokenizer


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An example in tokens. texts: u32[n] each; leaves: by name, as data.labelled.store.LEAVES has
    them, of this example; facts: what is kept of it in words."""

    texts: Sequence[np.ndarray]
    leaves: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What is said of a task beside its examples. source: fingerprint of what they came from."""

    kind: Kind
    name: str
    labels: tuple[str, ...]
    texts: int
    source: str
    rejects: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    duplicates: float = 0.0


def write_task(
    folder: Path,
    task: Written,
    *,
    train: Iterable[Labelled],
    holdout: Iterable[Labelled],
    tokenizer: Tokenizer,
) -> TaskStore:
    """Write a store, whole or not at all. Raises ValueError for a folder that holds something, and
    where there is nothing to train on."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name another, or remove it")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write(draft, task, {"train": list(train), "holdout": list(holdout)}, tokenizer)
        if folder.exists() and not is_task_store(folder):
            folder.rmdir()
        if not folder.exists():  # another process may have put the same store here meanwhile
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return TaskStore(folder)


def _write(
    draft: Path, task: Written, splits: dict[str, list[Labelled]], tokenizer: Tokenizer
) -> None:
    if not splits["train"]:
        raise ValueError(f"task {task.name!r} has no examples to train on")
    examples = [*splits["train"], *splits["holdout"]]
    texts = [text for each in examples for text in each.texts]
    arrays = {
        "tokens": np.concatenate(texts).astype(tokenizer.dtype),
        "ends": np.cumsum([len(text) for text in texts]).astype("<i8"),
    }
    for name, (form, _, each) in LEAVES[task.kind].items():
        parts = [np.asarray(e.leaves[name]).reshape(-1, each) for e in examples]
        arrays[name] = np.concatenate(parts).astype(form)
    contents = {f"{name}.bin": array.tobytes() for name, array in arrays.items()}
    contents["examples.jsonl"] = _lines([each.facts for each in examples])
    contents["rejects.jsonl"] = _lines(task.rejects)
    save_tokenizer(tokenizer, draft / "tokenizer")
    for name, content in contents.items():
        (draft / name).write_bytes(content)
    record = {
        "format": FORMAT,
        "fingerprint": task.source,
        "tokenizer": tokenizer.fingerprint,
        "eos": tokenizer.eos,
        "kind": task.kind,
        "name": task.name,
        "labels": list(task.labels),
        "texts": task.texts,
        "count": {split: len(each) for split, each in splits.items()},
        "statistics": _statistics(task, splits["train"]),
        "totals": {split: _totals(each, tokenizer) for split, each in splits.items()},
        "counts": dict(task.counts),
        "duplicates": task.duplicates,
        "rejects": dict(sorted(Counter(each["reason"] for each in task.rejects).items())),
        "dtype": tokenizer.dtype.str,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    (draft / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()


def _totals(examples: Sequence[Labelled], tokenizer: Tokenizer) -> dict[str, int]:
    texts = [text for each in examples for text in each.texts]
    return {
        "documents": len(examples),
        "tokens": sum(map(len, texts)),
        "bytes": sum(int(tokenizer.byte_lengths[text].sum()) for text in texts),
    }


def _statistics(task: Written, train: Sequence[Labelled]) -> dict[str, Any]:
    """Of the training examples: {"labels": how many there are of each}, {"mean", "deviation"} of
    numbers, {"answered": questions that have an answer}."""
    if task.kind == "regress":
        values = np.array([each.leaves["labels"] for each in train], np.float64)
        return {"mean": float(values.mean()), "deviation": float(values.std())}
    if task.kind == "qa":
        return {"answered": int(sum(each.leaves["answers"][0] >= 0 for each in train))}
    name = "labels" if task.kind == "classify" else "tags"
    found = np.concatenate([np.asarray(each.leaves[name]).reshape(-1) for each in train])
    counts = np.bincount(found[found >= 0], minlength=len(task.labels))
    return {"labels": counts.tolist()}
