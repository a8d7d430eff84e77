"""What a model says of every example of a task store's split: on device a batch at a time, gathered
by example, so that no mesh, batch size or packing changes a figure."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.data.labelled.order import TaskHeldout
from gesso.data.labelled.store import TaskStore
from gesso.data.store.base import Split
from gesso.evaluation.generation.decoding import over_rows, replication
from gesso.models import build
from gesso.objectives.base import Objective

Rows = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """kind: of the task. examples: i64[m], numbers of the store, rising; of a tag's words, each
    word's. logits: f32[m, Y] of labels, numbers (Y = 1) and words' tags; targets: [m], what is
    right. spans: of windows of questions {"example", "score", "null", "first", "last"}: the best
    answer's score, that of no answer, and the answer's first and last token of the context.
    terms: {name: (sum, count)} of the objective's terms. rows: how many were looked at.
    """

    kind: str
    examples: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    spans: dict[str, np.ndarray]
    terms: dict[str, tuple[float, float]]
    rows: int


def predict_task(
    model: Any,
    objective: Any,
    params: Any,
    store: TaskStore,
    *,
    length: int,
    batch: int,
    split: Split = "holdout",
    rows: int = 0,
    compute: str = "float32",
) -> Predictions:
    """What `params`, where they lie, say of a split ("train" or "holdout") of a task store.

    length: of the model's rows. batch: rows per compiled call, rounded up to what the params' mesh
    divides. rows: only so many, evenly spread; 0 = all; of a question that is read in several
    windows all must be among them. Raises ValueError for a split without examples.
    """
    held = TaskHeldout(
        store, length=objective.row_length(length), frame=objective.framing, split=split
    )
    if not len(held):
        raise ValueError(
            f"{store.folder} has no examples in split {split!r}: build it with --heldout FILES, or"
            " a larger --holdout share"
        )
    if store.kind == "qa" and split != "holdout":
        raise ValueError("the texts of answers are kept of held-out questions alone")
    cast = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    over = over_rows(cast)
    size = -(-batch // over.parts) * over.parts
    run = _compile(model.config, objective, replication(cast))
    count = min(rows, len(held)) if rows else len(held)
    chosen = [i * len(held) // count for i in range(count)]
    gathered: list[dict[str, np.ndarray]] = []
    sums = np.zeros((len(objective.terms), 2))
    for read in _batches(held, chosen, size):
        made = objective.host_batch(read)
        full = {name: _fill(leaf, size) for name, leaf in made.items()}
        terms, said = jax.device_get(run(cast, over.place(full)))
        sums += np.asarray(terms, np.float64)
        kept = {name: np.asarray(leaf)[: len(read["item"])] for name, leaf in said.items()}
        gathered.append(_of_tags(read, kept) if objective.kind == "tag" else _of_items(read, kept))
    found = {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}
    order = np.argsort(found["item"], kind="stable")
    found = {name: leaf[order] for name, leaf in found.items()}
    return Predictions(
        kind=objective.kind,
        examples=held.items.example[found["item"]],
        logits=found.get("logits", np.zeros((0, 0), np.float32)),
        targets=found.get("targets", np.zeros(0)),
        spans=_spans(found, held) if objective.kind == "qa" else {},
        terms={
            name: (float(each[0]), float(each[1]))
            for name, each in zip(objective.terms, sums, strict=True)
        },
        rows=count,
    )


def _batches(held: Any, chosen: list[int], size: int) -> Iterator[Rows]:
    for start in range(0, len(chosen), size):
        picked = chosen[start : start + size]
        if picked[-1] - picked[0] + 1 == len(picked):
            yield held.rows(picked[0], len(picked))
            continue
        parts = [held.rows(row, 1) for row in picked]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fill(leaf: np.ndarray, size: int) -> np.ndarray:
    # Zeros are padding everywhere: segment 0, weight 0.
    empty = np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)
    return np.concatenate([leaf, empty]) if len(empty) else leaf


def _of_items(read: Rows, said: Rows) -> Rows:
    there = read["item"] >= 0
    found = {name: leaf[there] for name, leaf in said.items()}
    targets = {"targets": read["labels"][there]} if "labels" in read else {}
    return {"item": read["item"][there], **targets, **found}


def _of_tags(read: Rows, said: Rows) -> Rows:
    row, place = np.nonzero(read["tags"] >= 0)
    item = read["item"][row, read["segments"][row, place] - 1]
    logits, targets = said["logits"][row, place], read["tags"][row, place]
    return {"item": item, "targets": targets, "logits": logits}


def _spans(found: Rows, held: Any) -> dict[str, np.ndarray]:
    """`Predictions.spans`, of questions all of whose windows were looked at."""
    items = held.items
    item = found["item"]
    base = items.example[0]
    windows = np.bincount(items.example - base)
    seen = np.bincount(items.example[item] - base, minlength=len(windows))
    keep = (seen == windows)[items.example[item] - base]
    # A window is [cls] question [sep] context [end], and `start` counts from [cls].
    context = items.runs[item, 1, 0]
    before = items.size[item] - context[:, 1] - len(held.frame.last)
    first = context[:, 0] + found["start"] - before
    made = {
        "example": items.example[item],
        "score": found["score"],
        "null": found["null"],
        "first": first,
        "last": first + found["size"] - 1,
    }
    return {name: leaf[keep] for name, leaf in made.items()}


@functools.lru_cache(maxsize=4)
def _compile(config: Any, objective: Objective, everywhere: NamedSharding | None) -> Any:
    """(params, batch) -> (f32[terms, 2], what is predicted)."""
    model, scoring = build(config), objective

    def run(params: Any, batch: Any) -> Any:
        losses, said = scoring.score(model.merge(params), batch, None)  # pyright: ignore[reportAttributeAccessIssue]
        totals = [
            jnp.stack([jnp.where(weight > 0, losses[name] * weight, 0).sum(), weight.sum()])
            for name, term in objective.terms.items()
            for weight in (batch[term.weight],)
        ]
        return jnp.stack(totals), said

    return jax.jit(run, out_shardings=everywhere) if everywhere else jax.jit(run)
