"""What each term's targets cost a unigram model: what a model of this objective must beat."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gesso.data.order.base import RowOrder
from gesso.evaluation.heldout.rows import heldout_rows

TRAINING_ROWS = 4096
TRAINING_TARGETS = 1_000_000  # of the term that has least of them
_BLOCK = 64


def unigram(
    objective: Any,
    order: RowOrder,
    *,
    length: int,
    vocab: int,
    rows: int,
    components: Sequence[str] | None = None,
    training_rows: int = TRAINING_ROWS,
) -> dict[str, dict[str, float]]:
    """{term: {"unigram_nll": nats per target, "unigram_accuracy": share of targets}} of every term
    that predicts tokens, on the targets that `evaluate_heldout` scores with the same `length`,
    `rows` and `components`; {"unigram_accuracy"} of the accuracies that go with them. A term
    without targets in these rows is left out.

    The model knows how often each id was a target of the term: in the first rows of `order` (the
    run's data.order.Order) until every term has TRAINING_TARGETS of them, at most `training_rows`
    rows. An id never seen has a share of what was kept back for all `vocab` ids alike
    (Witten-Bell: Chen & Goodman 1998, https://aclanthology.org/P96-1041, section 2.5). Its guess is
    always the id seen most.
    """
    terms = {name: term for name, term in objective.terms.items() if term.targets}
    counts = {name: np.zeros(vocab, np.int64) for name in terms}
    for first in range(0, training_rows, _BLOCK):
        taken = order.take(order.visit(first, min(_BLOCK, training_rows - first)))
        _count(objective, terms, [taken], counts)
        if all(count.sum() >= TRAINING_TARGETS for count in counts.values()):
            break
    held = {name: np.zeros(vocab, np.int64) for name in terms}
    store = order.store
    shape: dict[str, Any] = {
        "length": objective.row_length(length),
        "overlap": objective.overlap,
        "overhead": objective.overhead,
        "companions": objective.companions,
    }
    for component in store.components if components is None else components:
        blocks = heldout_rows(store, component, **shape, rows=rows, block=_BLOCK)
        _count(objective, terms, blocks, held)
    measured = {name: _figures(counts[name], held[name]) for name in terms if held[name].any()}
    for name, term in objective.terms.items():
        of = [each for each in terms if each in measured and terms[each].weight == term.weight]
        if name.endswith("accuracy") and name not in terms and of:
            measured[name] = {"unigram_accuracy": measured[of[0]]["unigram_accuracy"]}
    return measured


def format_term(name: str, term: Mapping[str, Any]) -> str:
    """A term of `beside` in a line: "nll 3.2101 (unigram 4.8502)", "accuracy 31.2% (...)"."""
    form = ".1%" if name.endswith("accuracy") else ".4f"
    mean = "n/a" if term["mean"] is None else format(term["mean"], form)
    unigram = term.get("unigram_nll", term.get("unigram_accuracy"))
    return f"{name} {mean}" + ("" if unigram is None else f" (unigram {unigram:{form}})")


def beside(figures: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> Any:
    """The figures of `evaluate_heldout` with those of `unigram` in their "terms"."""
    terms = {name: {**each, **measured.get(name, {})} for name, each in figures["terms"].items()}
    return {**figures, "terms": terms}


def _count(
    objective: Any,
    terms: Mapping[str, Any],
    blocks: Iterable[Mapping[str, np.ndarray]],
    counts: Mapping[str, np.ndarray],
) -> None:
    for rows in blocks:
        batch = objective.host_batch(rows)
        for name, term in terms.items():
            targets = batch[term.targets][batch[term.weight] > 0]
            counts[name][:] += np.bincount(targets, minlength=len(counts[name]))


def _figures(seen: np.ndarray, held: np.ndarray) -> dict[str, float]:
    distinct, total = np.count_nonzero(seen), seen.sum()
    probabilities = (seen + max(distinct, 1) / len(seen)) / (total + max(distinct, 1))
    return {
        "unigram_nll": float(-(held @ np.log(probabilities)) / held.sum()),
        "unigram_accuracy": float(held[seen.argmax()] / held.sum()),
    }
