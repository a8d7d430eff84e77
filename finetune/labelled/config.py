"""A task of labelled examples as settings: which files, which of their fields. No JAX."""

from dataclasses import dataclass
from typing import Literal

TaskFormat = Literal["", "jsonl", "tsv", "csv", "conll", "squad", "tfds"]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Files of labelled examples and how they become a task store.

    task: a shape that is known by name (sst2, mnli, boolq, squad, ...:
        finetune/labelled/shapes.py), or "classify", "regress", "tag" or "qa" with the fields below.
    files, heldout: to train on and to hold out (.gz and .zst are read too; `tfds:NAME[:SPLIT]`).
        Without `heldout` a share `holdout` of the examples is held out, by a hash of their texts.
    format: "" goes by the file's name: .jsonl or .json, .tsv, .csv, .conll. "conll": a word and its
        tag per line, a blank line behind each sentence. "squad": the published JSON of SQuAD.
    texts: one or two fields, or templates over fields ("{word}: {sentence1}"); dots go inwards.
    label: the field with the label, number or tags. words: the field with a sentence's words.
    columns: names of a table's columns, where its first line is no header.
    labels: the names of labels, by id; empty: those that occur in the training files, sorted.
    values: what stands for them in the files, in the same order, where it is something else.
    name: of the task. limit: only so many good examples of each split; 0 = all.
    tokenizer: as for `gesso corpus build`. reject_cap: the largest tolerated share of bad records.
    """

    task: str
    files: tuple[str, ...]
    heldout: tuple[str, ...] = ()
    tokenizer: str = "bytes"
    format: TaskFormat = ""
    texts: tuple[str, ...] = ()
    label: str = ""
    words: str = ""
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    name: str = ""
    holdout: float = 0.1
    limit: int = 0
    reject_cap: float = 0.05
