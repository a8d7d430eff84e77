"""A task of labelled examples as settings: which files, which of their fields. No JAX."""

from dataclasses import dataclass
from typing import Literal

TaskFormat = Literal["", "jsonl", "tsv", "csv", "conll", "squad", "tfds"]


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How files of labelled examples become a task store."""

    task: str
    """Task known by name (sst2, mnli, boolq, squad, conll, ...), or what is predicted: classify,
    regress, tag, qa. The known shapes are in finetune/labelled/shapes.py; of the others the fields
    below describe the files."""
    heldout: tuple[str, ...] = ()
    """Files to evaluate on; () = a share `holdout` of the examples."""
    tokenizer: str = "bytes"
    """The model's tokenizer: "bytes", or a path that `gesso tokenizer train` or `import` wrote."""
    format: TaskFormat = ""
    """Input format; "" infers it from the suffix: .jsonl or .json, .tsv, .csv, .conll. "conll": a
    word and its tag per line, a blank line behind each sentence. "squad": the published JSON of
    SQuAD."""
    texts: tuple[str, ...] = ()
    """One or two fields with the texts, or templates over fields ("{word}: {sentence1}"); dots go
    inwards."""
    label: str = ""
    """Field with the label, number, tags or answers."""
    words: str = ""
    """Field with a sentence's words."""
    columns: tuple[str, ...] = ()
    """Names of a table's columns, where its first line is not a header."""
    labels: tuple[str, ...] = ()
    """Names of the labels, by id; () = those in the training files, sorted."""
    values: tuple[str, ...] = ()
    """Values of the labels in the files, in the same order, where they differ from the names."""
    name: str = ""
    """Name of the task in the store and its reports; "" = the task's own."""
    holdout: float = 0.1
    """Share of examples held out without `heldout`, by a hash of their texts."""
    limit: int = 0
    """Good examples that are taken of each split; 0 = all."""
    reject_cap: float = 0.05
    """Largest tolerated share of records that are not examples."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(TaskSettings):
    """Files of labelled examples, and how they become a task store."""

    files: tuple[str, ...]
    """Files to train on (.gz and .zst are read too; `tfds:NAME[:SPLIT]`)."""
