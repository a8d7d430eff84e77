"""Which held-out rows are looked at: the same ones for a model and for what it is compared with."""

from collections.abc import Iterator

import numpy as np

from gesso.data.store.base import Store

Rows = dict[str, np.ndarray]


def heldout_rows(
    store: Store,
    component: str,
    *,
    length: int,
    overlap: int,
    rows: int,
    block: int,
    overhead: int = 0,
    companions: bool = False,
) -> Iterator[Rows]:
    """The held-out rows of a component as data.open.heldout gives them, at most `block` at a time.

    rows: how many, spread evenly from the first to the last, for neighbours may be pieces of one
    long document; 0 = all of them. Of a store that is still being built, those of its first era.
    """
    from gesso.data.open import heldout

    eras = 0 if store.complete else 1
    held = heldout(
        store,
        component,
        length=length,
        overlap=overlap,
        eras=eras,
        overhead=overhead,
        companions=companions,
    )
    if not rows or rows >= len(held):
        for start in range(0, len(held), block):
            yield held.rows(start, min(block, len(held) - start))
        return
    chosen = [i * len(held) // rows for i in range(rows)]
    for start in range(0, rows, block):
        parts = [held.rows(i, 1) for i in chosen[start : start + block]]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
