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
    """One file of examples."""

    path: str
    """File (.gz and .zst are read too), for natural_instructions also a folder of task files, for
    tfds `tfds:NAME[:SPLIT]`."""
    format: Format = "jsonl"
    """Form of the file. "jsonl", "tsv", "csv" and "tfds" hold the fields of `family` by name; the
    others are published forms (docs/instructions.md)."""
    family: str = ""
    """Family whose templates ask for its examples; "" = the format's."""
    task: str = ""
    """Name of the task; "" = the file's stem."""
    cluster: str = ""
    """Cluster of the task; "" = the family's."""
    fields: dict[str, str] = field(default_factory=dict)
    """Keys of the family's fields in the file, where the names differ; dots go inwards."""
    labels: tuple[str, ...] = ()
    """Values of the label field in the file, in the order of the family's labels, where they
    differ."""
    limit: int = 0
    """Good examples that are taken, from the first on; 0 = all. The others are counted."""


@dataclass(frozen=True, kw_only=True)
class FormsConfig:
    """How examples are asked: relative shares of forms, and of what comes with them; a form that an
    example cannot take leaves its share to the others."""

    zero_shot: float = 1.0
    """Share of prompts without examples."""
    few_shot: float = 0.0
    """Share of prompts with other examples of the task in front."""
    reasoned: float = 0.0
    """Share of targets with their rationale, where an example has one."""
    few_shot_reasoned: float = 0.0
    """Share of prompts with other examples and their rationales in front."""
    shots: tuple[int, int] = (2, 5)
    """Fewest and most examples in a few-shot prompt, drawn evenly."""
    options: float = 0.5
    """Share of renderings with the possible answers after the question, where there are any."""
    inverted: float = 0.2
    """Share of renderings that ask the other way round, where the family has such templates."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How chat turns are written."""

    template: str = ""
    """File with a jinja2 chat template, or a tokenizer_config.json that has one; "" = ours,
    "<|role|>" lines."""
    special: dict[str, int] = field(default_factory=dict)
    """Ids of texts of the template that are one token each: {"<|im_end|>": 50258}."""
    bos: str = ""
    """Text of the template's bos_token."""
    eos: str = ""
    """Text of the template's eos_token."""


@dataclass(frozen=True, kw_only=True)
class InstructionsConfig:
    """Files of examples, and how they become a store of instruction examples."""

    sources: tuple[SourceConfig, ...]
    """The files of examples."""
    tokenizer: str = "bytes"
    """"bytes", or a path that `gesso tokenizer train` or `import` wrote."""
    templates: tuple[str, ...] = ()
    """Files of families of your own, beside ours."""
    forms: FormsConfig = FormsConfig()
    """How examples are asked."""
    chat: ChatConfig = ChatConfig()
    """How chat turns are written."""
    renderings: int = 4
    """Times each example is rendered; epochs go through them in turn."""
    holdout: float = 0.05
    """Share of examples kept out of training, by a hash of their fields."""
    max_tokens: int = 1024
    """Most tokens of a few-shot prompt with its target; examples leave it, the first ones first,
    until it fits."""
    reject_cap: float = 0.05
    """Largest tolerated share of bad records in one source."""
    seed: int = 0
    """Seed of the renderings."""
