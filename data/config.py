"""The data of a run as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How rows are shared among the components of a store.

    kind: "natural" (in proportion to tokens), "weights" (a share of rows per component), "epochs"
    (tokens x epochs per component) or "temperature" (tokens ** (1 / temperature)). All but
    "weights" count tokens, so they need a finished store.
    values: {component: weight or epochs}; empty for natural and temperature.
    preset: "pile" takes The Pile's 22 components with their epochs instead of `values`.
    changes: later mixtures, each from the given row on: ((row, {component: weight}), ...).
    """

    kind: Literal["natural", "weights", "epochs", "temperature"] = "natural"
    values: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    preset: Literal["", "pile"] = ""
    changes: tuple[tuple[int, dict[str, float]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """What of a store of instruction examples (data/instructions/store.py) is drawn and counted.

    cap: at most so many examples of a task count when rows are shared out in proportion; 0 = all.
    without: clusters or tasks that are left out of training (leave one cluster out).
    weigh: "tokens" counts every target token once, "examples" every example once: its tokens weigh
    1 / their number, so that tasks with long answers do not outweigh the others.
    prompt_weight: what predicting a token of the prompt counts for, beside 1 for the target's.
    cut: what a prompt loses where example and row do not fit: its start, middle or end.
    """

    cap: int = 0
    without: tuple[str, ...] = ()
    weigh: Literal["tokens", "examples"] = "tokens"
    prompt_weight: float = 0.0
    cut: Literal["start", "middle", "end"] = "middle"


@dataclass(frozen=True, kw_only=True)
class FrameConfig:
    """How the examples of a task store (data/labelled/store.py) become rows; its objective says it.

    first, between, last: ids written before an example's texts, between two of them and after them.
    per_row: the most examples of a row, each a segment of its own; 1: one example per row.
    cut: what a text that is too long loses: its end, its start, or its middle, of which a share
        `head_share` of what is kept comes from the start. Of two texts the longer one loses first.
    chunks: windows that a text is read in, each as long as the model's rows; above 1 there is one
        example per row, of this many windows.
    stride: tokens from one window of a text with an answer in it to the next. question: the most
        tokens of the question before it.
    """

    first: tuple[int, ...]
    between: tuple[int, ...]
    last: tuple[int, ...]
    per_row: int = 1
    cut: Literal["end", "start", "middle"] = "end"
    head_share: float = 0.25
    chunks: int = 1
    stride: int = 128
    question: int = 64

    def overhead(self, texts: int) -> int:
        """Places of a row that an example of so many texts takes beside its tokens."""
        return len(self.first) + (texts - 1) * len(self.between) + len(self.last)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which token store, in which order.

    store: a folder made by `gesso corpus build`, or "embedded:KIND[:MEGABYTES]": the corpus that
    comes with Python (no internet), tokenized by a tokenizer of that kind (bytes, wordpiece...).
    packing: "best_fit" cuts no document that fits in a row; "concat" is the published baseline;
        "stream" is concat, read on: each place of a batch goes on where it was in the batch before
        (for a model that remembers).
    examples: which instruction examples are drawn and what counts, where the store holds examples.
    skip: row ranges [first, last) that are jumped over (a loss spike's batches).
    prefetch: batches made ahead by the loader's thread. It never changes the order.
    wait_seconds: how long to wait for a builder that is behind before giving up.
    """

    store: str = "embedded:bytes"
    packing: Literal["best_fit", "concat", "stream"] = "best_fit"
    mixture: MixtureConfig = MixtureConfig()
    examples: ExamplesConfig = ExamplesConfig()
    seed: int = 0
    skip: tuple[tuple[int, int], ...] = ()
    prefetch: int = 2
    wait_seconds: int = 600


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """All that, with a store, fixes every training row.

    length: tokens of a row, the overlap included (a causal model of length L takes rows of L + 1).
    overlap: tokens that neighbouring pieces of one long document share (1 where each token but a
    document's first is a target, 0 where each token is an input).
    overhead: tokens of a row kept free for every piece in it (BERT's [CLS] and [SEP]).
    companions: whether rows carry text of another document beside each of their pieces.
    streams: places of a batch, of packing stream alone (0 otherwise).
    examples: of a store of instruction examples only. frame: of a task store only.
    The rest as in DataConfig.
    """

    length: int
    overlap: Literal[0, 1] = 1
    overhead: int = 0
    companions: bool = False
    streams: int = 0
    packing: Literal["best_fit", "concat", "stream"] = "best_fit"
    seed: int = 0
    mixture: MixtureConfig = MixtureConfig()
    skip: tuple[tuple[int, int], ...] = ()
    wait_seconds: float = 600
    examples: ExamplesConfig = ExamplesConfig()
    frame: FrameConfig | None = None


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How raw text becomes a token store. Fields marked * are part of the store's fingerprint.

    sources*: what to read, in order: files, folders, globs (`**` allowed),
        `tfds:NAME[/CONFIG][:SPLIT]` or `tfds:FOLDER[:SPLIT]`; local paths or any that etils.epath
        opens. `NAME=SOURCE` puts all of that source in the component NAME.
    folder: the token store. Local or on a shared file system (it is memory-mapped when read).
    tokenizer*: "bytes", or a path that `load_tokenizer` takes. Its content counts, not its path.
    holdout*: share of documents kept out of training, chosen by a hash of the text, so that exact
        twins always fall on the same side.
    text_key*, component_key*: where a record holds its text and its component; dots go inwards.
        An empty component_key, or a record without it: one component per source, named after the
        file's stem (a number alone: "default").
    text_split*: what a document is in a .txt source: the whole file, the text between blank lines,
        or one line.
    on_bad_input*: "quarantine" counts and keeps bad records aside; "error" stops at the first one.
    reject_cap: the largest tolerated share of bad records in one shard (blank ones not counted).
    max_document_bytes*: longer records are quarantined, and never held in memory.
    part_tokens_first*, part_tokens_cap*: a shard's first two parts close at `part_tokens_first`
        tokens; each later one is twice as large, up to the cap. A part must take less time
        to build than passes between two kills of the builder.
    checksums: a file in the format of `sha256sum`; every source file is checked against it.
    workers: tokenizer processes; 1 tokenizes in the builder itself. The bytes written are the same.
    share: (i, n): this builder takes shards i, i + n, i + 2n, ... of all. One builder: (0, 1).
    """

    sources: tuple[str, ...]
    folder: str
    tokenizer: str = "bytes"
    holdout: float = 0.005
    text_key: str = "text"
    component_key: str = "meta.pile_set_name"
    text_split: Literal["file", "blank_line", "line"] = "file"
    on_bad_input: Literal["quarantine", "error"] = "quarantine"
    reject_cap: float = 0.01
    max_document_bytes: int = 64 << 20
    part_tokens_first: int = 1 << 18
    part_tokens_cap: int = 1 << 24
    checksums: str = ""
    workers: int = 1
    share: tuple[int, int] = (0, 1)
