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
class DataConfig:
    """Which token store, in which order.

    store: a folder made by `gesso corpus build`, or "embedded:KIND[:MEGABYTES]": the corpus that
    comes with Python (no internet), tokenized by a tokenizer of that kind (bytes, sentencepiece).
    packing: "best_fit" cuts no document that fits in a row; "concat" is the published baseline.
    skip: row ranges [first, last) that are jumped over (a loss spike's batches).
    prefetch: batches made ahead by the loader's thread. It never changes the order.
    wait_seconds: how long to wait for a builder that is behind before giving up.
    """

    store: str = "embedded:bytes"
    packing: Literal["best_fit", "concat"] = "best_fit"
    mixture: MixtureConfig = MixtureConfig()
    seed: int = 0
    skip: tuple[tuple[int, int], ...] = ()
    prefetch: int = 2
    wait_seconds: int = 600
