"""The data of a run as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How rows are shared among the components of a store."""

    kind: Literal["natural", "weights", "epochs", "temperature"] = "natural"
    """Rule of the shares: "natural", "weights", "epochs" or "temperature". "natural": in proportion
    to tokens; "weights": a share of rows per component; "epochs": tokens x epochs per component;
    "temperature": tokens ** (1 / temperature). All but "weights" count tokens, so they need a
    finished store."""
    values: dict[str, float] = field(default_factory=dict)
    """Weight or epochs of each component; {} for natural and temperature."""
    temperature: float = 1.0
    """Temperature of kind "temperature"; above 1 raises small components."""
    preset: Literal["", "pile"] = ""
    """Published values instead of `values`: "pile" has The Pile's 22 components with their epochs;
    "" = none."""
    changes: tuple[tuple[int, dict[str, float]], ...] = ()
    """Later mixtures, each from the given row on: ((row, {component: weight}), ...)."""


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Which examples of an instruction store (data/instructions/store.py) are drawn, and what
    counts."""

    cap: int = 0
    """Most examples of a task that count when rows are shared out in proportion; 0 = all."""
    without: tuple[str, ...] = ()
    """Clusters or tasks left out of training (leave one cluster out)."""
    weigh: Literal["tokens", "examples"] = "tokens"
    """Unit of the loss: "tokens" counts every target token once, "examples" every example once. An
    example's tokens then weigh 1 / their number, so that tasks with long answers do not outweigh
    the others."""
    prompt_weight: float = 0.0
    """Weight of predicting a token of the prompt, beside 1 for the target's; 0 = targets only."""
    cut: Literal["start", "middle", "end"] = "middle"
    """Part that a prompt loses where example and row do not fit: its "start", "middle" or "end"."""


@dataclass(frozen=True, kw_only=True)
class FrameConfig:
    """How the examples of a task store (data/labelled/store.py) become rows; the objective decides
    it."""

    first: tuple[int, ...]
    """Ids written before an example's texts."""
    between: tuple[int, ...]
    """Ids written between two texts."""
    last: tuple[int, ...]
    """Ids written after an example's texts."""
    per_row: int = 1
    """Most examples of a row, each a segment of its own; 1 = one example per row."""
    cut: Literal["end", "start", "middle"] = "end"
    """Part that a text loses when it is too long: "end", "start" or "middle". Of two texts the
    longer one loses first."""
    head_share: float = 0.25
    """Share of what is kept that comes from the text's start; of cut "middle" only."""
    chunks: int = 1
    """Windows that a text is read in, each as long as the model's rows; above 1 a row is one
    example of this many windows."""
    stride: int = 128
    """Tokens from one window of a text with an answer in it to the next."""
    question: int = 64
    """Most tokens of the question before it."""

    def overhead(self, texts: int) -> int:
        """Places of a row that an example of so many texts takes beside its tokens."""
        return len(self.first) + (texts - 1) * len(self.between) + len(self.last)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The token store of a run, and the order of its rows."""

    store: str = "embedded:bytes"
    """Folder made by `gesso corpus build`, or "embedded:KIND[:MEGABYTES]". The embedded corpus
    comes with Python (no internet) and is tokenized by a tokenizer of that kind (bytes,
    wordpiece...)."""
    packing: Literal["best_fit", "concat", "stream"] = "best_fit"
    """How documents fill rows: best_fit, concat or stream. "best_fit" cuts no document that fits in
    a row; "concat" is the published baseline; "stream" is concat, read on: each place of a batch
    continues that place of the batch before, for a model that carries its state."""
    mixture: MixtureConfig = MixtureConfig()
    """How rows are shared among the components of the store."""
    examples: ExamplesConfig = ExamplesConfig()
    """Which instruction examples are drawn, and what counts, where the store holds examples."""
    seed: int = 0
    """Seed of the order of rows."""
    skip: tuple[tuple[int, int], ...] = ()
    """Row ranges [first, last) that are jumped over, such as the batches of a loss spike."""
    prefetch: int = 2
    """Batches made ahead by the loader's thread; it never changes the order."""
    wait_seconds: int = 600
    """Seconds to wait for a builder that is behind, before giving up."""


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """All that, with a store, fixes every training row."""

    length: int
    """Tokens of a row, the overlap included (a causal model of length L takes rows of L + 1)."""
    overlap: Literal[0, 1] = 1
    """Tokens that neighbouring pieces of one long document share: 1 where each token but a
    document's first is a target, 0 where each token is an input."""
    overhead: int = 0
    """Tokens of a row kept free for every piece in it (BERT's [CLS] and [SEP])."""
    companions: bool = False
    """Whether rows carry text of another document beside each of their pieces."""
    streams: int = 0
    """Places of a batch, of packing "stream" alone; 0 otherwise."""
    packing: Literal["best_fit", "concat", "stream"] = "best_fit"
    """How documents fill rows, as in DataConfig."""
    seed: int = 0
    """Seed of the order of rows."""
    mixture: MixtureConfig = MixtureConfig()
    """How rows are shared among the components of the store."""
    skip: tuple[tuple[int, int], ...] = ()
    """Row ranges [first, last) that are jumped over."""
    wait_seconds: float = 600
    """Seconds to wait for a builder that is behind, before giving up."""
    examples: ExamplesConfig = ExamplesConfig()
    """Which examples are drawn, of a store of instruction examples only."""
    frame: FrameConfig | None = None
    """How examples become rows, of a task store only; None otherwise."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How raw text becomes a token store; all but folder, reject_cap, checksums, workers and share
    are part of the store's fingerprint."""

    sources: tuple[str, ...]
    """Text to read, in order: files, folders, globs (`**` allowed), `tfds:NAME[/CONFIG][:SPLIT]` or
    `tfds:FOLDER[:SPLIT]`. Paths are local or any that etils.epath opens; `NAME=SOURCE` puts all of
    that source in the component NAME."""
    folder: str
    """Token store to make or continue, local or on a shared file system (it is memory-mapped when
    read)."""
    tokenizer: str = "bytes"
    """"bytes", or a path that `gesso tokenizer train` or `import` wrote; its content counts, not
    its path."""
    holdout: float = 0.005
    """Share of documents kept out of training, chosen by a hash of the text, so that exact twins
    fall on the same side."""
    text_key: str = "text"
    """Key of a record's text; dots go inwards."""
    component_key: str = "meta.pile_set_name"
    """Key of a record's component; dots go inwards. An empty key, or a record without it: one
    component per source, named after the file's stem (a number alone: "default")."""
    text_split: Literal["file", "blank_line", "line"] = "file"
    """Document of a .txt file: the whole "file", the text between blank lines ("blank_line"), or
    one "line"."""
    on_bad_input: Literal["quarantine", "error"] = "quarantine"
    """What bad records do: "quarantine" counts and keeps them aside, "error" stops at the first
    one."""
    reject_cap: float = 0.01
    """Largest share of bad records in one shard before the build stops (blank ones not counted)."""
    max_document_bytes: int = 64 << 20
    """Longest record in bytes; longer ones are quarantined, and never held in memory."""
    part_tokens_first: int = 1 << 18
    """Tokens at which a shard's first two parts close; small ones let training start early. Each
    later part is twice as large, up to part_tokens_cap. A part must take less time to build than
    passes between two kills of the builder."""
    part_tokens_cap: int = 1 << 24
    """Tokens of a shard's largest parts."""
    checksums: str = ""
    """File in the format of `sha256sum`, against which every source file is checked; "" = none."""
    workers: int = 1
    """Tokenizer processes; 1 tokenizes in the builder itself. The bytes written are the same."""
    share: tuple[int, int] = (0, 1)
    """Shards this builder takes, as (i, n): i, i + n, i + 2n, ... of all; n such commands build one
    store together. One builder: (0, 1)."""
