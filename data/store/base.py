"""The contract of every store: tokens of documents, of instruction examples, of labelled examples.

tokens.py, examples.py and the rooms instructions/ and labelled/ fulfil it; data/open.py opens one.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer

Split = Literal["train", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "holdout")
Holds = Literal["text", "instructions", "task"]
# {component: {split: {unit: number}}}; units: "documents" (or examples), "tokens", "bytes", ...
Totals = dict[str, dict[str, dict[str, int]]]


class Store(ABC):
    """A folder of tokens that training rows are made of. Only reads; safe to use from several
    threads.

    holds: what kind of store it is. fingerprint: sha256 over everything the content depends on.
    eos: the id that ends documents.
    """

    holds: Holds
    folder: Path
    fingerprint: str
    eos: int

    @property
    def complete(self) -> bool:
        """Whether nothing will be added to it."""
        return True

    @property
    def earlier_fingerprints(self) -> tuple[str, ...]:
        """Those it had before a damaged source was repaired; what was committed under them is part
        of this store unchanged."""
        return ()

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """Names of what the data is made of, sorted: a mixture is drawn from these."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the store was made with. Raises ValueError if the copy is damaged."""
        return load_tokenizer(self.folder / "tokenizer")

    @abstractmethod
    def totals(self) -> Totals:
        """What the store holds, by component, split and unit."""

    @abstractmethod
    def rejects(self) -> dict[str, int]:
        """{reason: records} that were refused."""

    @abstractmethod
    def duplicates(self) -> float:
        """The share of documents or examples that came before."""

    def error(self) -> str:
        """What stopped the builder, or ""."""
        return ""

    @abstractmethod
    def verify(self) -> list[str]:
        """Read everything again. What is wrong, a line each; an empty list proves the store."""


class Era(ABC):
    """A stretch of the corpus that never changes once it is there: for each component and split one
    sequence of tokens, the documents one after the other, each with its EOS.

    fingerprint: of the content.
    """

    fingerprint: str

    @abstractmethod
    def lengths(self, component: str, split: Split) -> np.ndarray:
        """i64[documents]: tokens per document with its EOS; empty where there are none."""

    @abstractmethod
    def read(
        self, component: str, split: Split, starts: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """The tokens of many pieces, one after the other, in the store's dtype.

        starts, lengths: i64[n]; a start counts tokens in the era's sequence of this component and
        split. Raises IndexError for a piece outside it.
        """


class TextStore(Store):
    """A store of plain documents, read era by era while later ones may still be built."""

    holds = "text"

    @abstractmethod
    def era(self, number: int, *, wait_seconds: float = 0.0) -> Era | None:
        """Era `number`, from 0; None when the store is finished and has fewer.

        Raises StoreBehind when it is not committed within wait_seconds, and BuildFailed, without
        waiting, when the builder has stopped with an error.
        """
