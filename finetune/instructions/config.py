"""Fine-tuning as settings: which example files, in which renderings. Plain dataclasses, no JAX."""

from dataclasses import dataclass, field
from typing import Literal

Format = Literal[
    "jsonl",
    "tsv",
    "csv",
    "alpaca",
    "self_instruct",
    "natural_instructions",
    "flan",
    "gsm8k",
    "chat",
    "tfds",
]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One file of examples.

    path: a file (.gz and .zst are read too), for natural_instructions also a folder of task files,
        for tfds `tfds:NAME[:SPLIT]`.
    format: "jsonl", "tsv", "csv" and "tfds" hold the fields of `family` by name; the others are
        published forms (docs/instructions.md).
    family: whose templates ask for its examples; empty: what the format says.
    task: its name; empty: the file's stem. cluster: empty: the family's.
    fields: {the family's field: their key}, where the names differ; dots go inwards.
    labels: their values of the label field, in the order of the family's labels, where they differ.
    limit: only the first so many good examples; 0 = all. What is beyond is counted.
    """

    path: str
    format: Format = "jsonl"
    family: str = ""
    task: str = ""
    cluster: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    limit: int = 0


@dataclass(frozen=True, kw_only=True)
class FormsConfig:
    """How examples are asked: relative shares of forms, and of what comes with them.

    zero_shot, few_shot, reasoned, few_shot_reasoned: shares. A form that an example cannot take
    (no rationale, no other example in its task) leaves its share to the others.
    shots: the fewest and the most examples in a few-shot prompt, drawn evenly.
    options: share of renderings with the possible answers after the question, where there are any.
    inverted: share of renderings that ask the other way round, where the family has such templates.
    """

    zero_shot: float = 1.0
    few_shot: float = 0.0
    reasoned: float = 0.0
    few_shot_reasoned: float = 0.0
    shots: tuple[int, int] = (2, 5)
    options: float = 0.5
    inverted: float = 0.2


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How chat turns are written.

    template: a file with a jinja2 chat template, or a tokenizer_config.json that has one; empty:
        ours, "<|role|>" lines.
    special: texts of the template that are one id of the tokenizer each: {"<|im_end|>": 50258}.
    bos, eos: what the template's bos_token and eos_token say.
    """

    template: str = ""
    special: dict[str, int] = field(default_factory=dict)
    bos: str = ""
    eos: str = ""


@dataclass(frozen=True, kw_only=True)
class InstructionsConfig:
    """Files of examples and how they become a store of instruction examples.

    tokenizer: as for `gesso corpus build`. templates: files of families beside our own.
    renderings: how many times each example is rendered; epochs go through them in turn.
    holdout: share of examples kept out of training, by a hash of their fields.
    max_tokens: examples leave a few-shot prompt, the first ones first, until it fits with its
        target in so many tokens.
    reject_cap: the largest tolerated share of bad records in one source.
    """

    sources: tuple[SourceConfig, ...]
    tokenizer: str = "bytes"
    templates: tuple[str, ...] = ()
    forms: FormsConfig = FormsConfig()
    chat: ChatConfig = ChatConfig()
    renderings: int = 4
    holdout: float = 0.05
    max_tokens: int = 1024
    reject_cap: float = 0.05
    seed: int = 0
