"""P-tuning's placeholders, counted before a device reads them: a document has no more of them than
there are virtual tokens. (On the device the one too many would be NaN.)"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.models.adapters.config import AdapterConfig
from gesso.objectives.base import Objective


class TooManyPlaceholders(ValueError):
    """A document with more placeholders than adapter.tokens."""


def count_placeholders(objective: Objective, adapter: AdapterConfig) -> Objective:
    """The objective, whose host_batch raises TooManyPlaceholders where the adapter is p_tuning."""
    return (
        cast(Objective, _Counting(objective, adapter)) if adapter.kind == "p_tuning" else objective
    )


def refuse_crowded(
    tokens: np.ndarray, segments: np.ndarray | None, adapter: AdapterConfig, *, where: Sequence[str]
) -> None:
    """Raises TooManyPlaceholders. tokens, segments: i32[n, L]; no segments: a row is a document.
    where: what each row is called, n of them."""
    row, place = np.nonzero(tokens == adapter.placeholder)
    document = np.zeros_like(row) if segments is None else segments[row, place].astype(np.int64)
    key, count = np.unique(np.stack((row, document)), axis=1, return_counts=True)
    if not (over := count > adapter.tokens).any():
        return
    first = int(np.argmax(over))
    raise TooManyPlaceholders(
        f"{where[key[0, first]]}: a document has {count[first]} times the placeholder"
        f" {adapter.placeholder}, and there are {adapter.tokens} virtual tokens; make"
        " --adapter.tokens as many as its template has, or take an id that no text has"
    )


def refuse_crowded_texts(
    texts: Iterable[str | Sequence[int]], adapter: AdapterConfig, tokenizer: Tokenizer
) -> None:
    """The same of texts, or their ids, that a model is asked about; nothing to do for adapters
    other than p_tuning."""
    if adapter.kind != "p_tuning":
        return
    for each in texts:
        ids = tokenizer.encode(each) if isinstance(each, str) else each
        refuse_crowded(np.asarray(ids, np.int64)[None], None, adapter, where=[repr(each[:40])])


class _Counting:
    """Everything else is the objective's own."""

    def __init__(self, objective: Objective, adapter: AdapterConfig) -> None:
        self._objective, self._adapter = objective, adapter

    def __getattr__(self, name: str) -> object:
        return getattr(self._objective, name)

    def __call__(self, *given: Any) -> Any:
        return self._objective(*given)

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The objective's, refused where a document is crowded."""
        made = self._objective.host_batch(rows)
        # An encoder-decoder's virtual tokens are its source's.
        leaf, segments = (
            ("source", "source_segments")
            if "source" in made
            else (
                "tokens",
                "segments",
            )
        )
        numbers = rows.get("row", np.arange(len(made[leaf])))
        where = [f"row {number}" for number in numbers.tolist()]
        refuse_crowded(made[leaf], made.get(segments), self._adapter, where=where)
        return made
