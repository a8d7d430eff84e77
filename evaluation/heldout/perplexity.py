"""Held-out loss, perplexity per token and word, and bits per byte: per component and overall."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.heldout.rows import Rows, heldout_rows
from gesso.partitioning.axes import Layout, at_rest, partition, spec
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import batch_splits

Figures = dict[str, Any]


class NothingHeldOut(ValueError):
    """The store has no held-out documents among the components asked for."""


def evaluate_heldout(
    model: Any,
    objective: Any,
    params: Any,
    store: Store,
    *,
    length: int,
    rows: int,
    batch: int,
    mesh: Mesh | None = None,
    layout: Layout | str | None = None,
    components: Sequence[str] | None = None,
    compute: str = "float32",
) -> Figures:
    """{"loss", "perplexity", "bits_per_byte", "word_perplexity", "tokens", "bytes", "words",
    "terms", "components": {name: the same figures}} of `params` on the held-out documents of
    `store`.

    rows: held-out rows per component, evenly spread; 0 = all. batch: rows per compiled call; it
    changes no figure and is rounded up to what `mesh` divides. components: all by default; one
    with nothing held out is left out. compute: the dtype parameters are multiplied in.

    loss: nats per target token. perplexity: exp(loss). word_perplexity: exp(nats / words), words
    being what whitespace separates in the decoded targets. bits_per_byte: total bits / UTF-8
    bytes of the targets. A document's first token is not a target and counts nowhere.

    These are of the objective's first term, a negative log-likelihood. terms: {name: {"mean",
    "count", "perplexity" where the term has targets}} of all of them; mean and perplexity are None
    where nothing counted. bits_per_byte, word_perplexity and words are None of an objective that
    does not predict a text whole, one token after the other. Sums are divided once, at the end:
    batches are never averaged; a target of any weight above 0 counts once. Of a store that is still
    being built, the held-out documents of its first era are taken. Raises NothingHeldOut, and
    ValueError for an unknown component.
    """
    names = _require_known(store, components)
    tokenizer = store.tokenizer()
    terms = tuple(objective.terms)
    # Of each component: bytes, words, then the sum and the count of every term.
    sums = {name: np.zeros(2 + 2 * len(terms)) for name in names}
    splits = batch_splits(mesh) if mesh is not None else 1
    size = -(-batch // splits) * splits
    run = _compile(_Same(model), _Same(objective), mesh, _hashable(layout), compute, len(names))
    byte_lengths = jnp.asarray(tokenizer.byte_lengths, jnp.int32)
    shape = {
        "length": objective.row_length(length),
        "overlap": objective.overlap,
        "overhead": objective.overhead,
        "companions": objective.companions,
    }
    chosen = (
        (index, block)
        for index, name in enumerate(names)
        for block in heldout_rows(store, name, **shape, rows=rows, block=size)
    )
    for chunk in _batches(chosen, objective, size):
        target_bytes, totals = jax.device_get(run(params, chunk, byte_lengths))
        for index, words in _words(chunk, objective, tokenizer).items():
            sums[names[index]][1] += words
        for index, name in enumerate(names):
            sums[name][0] += target_bytes[index]
            sums[name][2:] += totals[index]
    sums = {name: each for name, each in sums.items() if each[3::2].any()}
    if not sums:
        raise NothingHeldOut(
            f"nothing is held out in {', '.join(names) or 'this store'}: build the store with"
            " a larger holdout share"
        )
    return _figures(sum(sums.values(), np.zeros(2 + 2 * len(terms))), objective) | {
        "components": {name: _figures(each, objective) for name, each in sums.items()}
    }


def _require_known(store: Store, components: Sequence[str] | None) -> tuple[str, ...]:
    known = tuple(store.components)
    if unknown := sorted(set(components or ()) - set(known)):
        raise ValueError(f"the store has no component {unknown}; it has {', '.join(known)}")
    return known if components is None else tuple(dict.fromkeys(components))


def _figures(sums: np.ndarray, objective: Any) -> Figures:
    target_bytes, words, nats, tokens = (float(x) for x in sums[:4])

    def per(count: float) -> float:
        return nats / count if count else math.nan

    with np.errstate(over="ignore"):
        whole = predicts_whole_texts(objective)
        return {
            "loss": per(tokens),
            "perplexity": float(np.exp(per(tokens))),
            "bits_per_byte": per(target_bytes) / math.log(2) if whole else None,
            "word_perplexity": float(np.exp(per(words))) if whole else None,
            "tokens": round(tokens),
            "bytes": round(target_bytes),
            "words": round(words) if whole else None,
            "terms": {
                name: _term(term, *sums[2 + 2 * i : 4 + 2 * i].tolist())
                for i, (name, term) in enumerate(objective.terms.items())
            },
        }


def _term(term: Any, total: float, count: float) -> Figures:
    mean = total / count if count else None
    figures = {"mean": mean, "count": round(count)}
    if not term.targets:
        return figures
    with np.errstate(over="ignore"):
        return figures | {"perplexity": None if mean is None else float(np.exp(mean))}


def predicts_whole_texts(objective: Any) -> bool:
    """Whether every token of a document but its first is a target of the first term, so that its
    costs add up to what the text costs. An objective whose targets are not the whole text says so
    (`whole_texts`): words that are <UNK> as targets cost nothing of what they spell."""
    if objective.whole_texts is not None:
        return objective.whole_texts
    return objective.overlap == 1


def _batches(stream: Iterator[tuple[int, Rows]], objective: Any, size: int) -> Iterator[Rows]:
    """Batches of exactly `size` rows; the last is filled with rows that weigh nothing.

    A batch may hold rows of several components: its "component" leaf indexes the names asked for.
    """
    waiting: list[Rows] = []
    count = 0
    for index, rows in stream:
        made = objective.host_batch(rows)
        made["component"] = np.full(len(made["tokens"]), index, np.int32)
        waiting.append(made)
        count += len(made["tokens"])
        while count >= size:
            whole = _join(waiting)
            yield {name: leaf[:size] for name, leaf in whole.items()}
            waiting = [{name: leaf[size:] for name, leaf in whole.items()}]
            count -= size
    if count:
        whole = _join(waiting)
        # Zeros are padding everywhere: segment 0, weight 0.
        yield {
            name: np.concatenate([leaf, np.zeros((size - count, *leaf.shape[1:]), leaf.dtype)])
            for name, leaf in whole.items()
        }


def _join(parts: list[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _words(chunk: Rows, objective: Any, tokenizer: Tokenizer) -> dict[int, int]:
    """{component index: words in the decoded targets}, document piece by document piece; nothing
    where some tokens of a row are no target."""
    term = next(iter(objective.terms.values()))
    if not predicts_whole_texts(objective):
        return {}
    words: dict[int, int] = {}
    for row, ids in enumerate(chunk[term.targets]):
        counted = chunk[term.weight][row] > 0
        targets, segments = ids[counted], chunk["segments"][row][counted]
        cuts = np.flatnonzero(np.diff(segments)) + 1
        for piece in np.split(targets, cuts):
            index = int(chunk["component"][row])
            text = tokenizer.decode(piece[piece != tokenizer.eos])
            words[index] = words.get(index, 0) + len(text.split())
    return words


def _hashable(layout: Layout | str | None) -> tuple[Any, ...] | None:
    """A layout as something a cache can be keyed by."""
    if layout is None:
        return None
    found = LAYOUTS[layout] if isinstance(layout, str) else layout
    return tuple(found.at_rest.items()), tuple(found.in_flight.items())


class _Same:
    """An object as a key of a cache, equal to itself only."""

    def __init__(self, it: Any) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it


@functools.lru_cache(maxsize=8)
def _compile(
    same_model: _Same,
    same_objective: _Same,
    mesh: Mesh | None,
    layout: tuple[Any, ...] | None,
    compute: str,
    components: int,
) -> Callable[[Any, Rows, jax.Array], Any]:
    """(params, batch, byte_lengths) -> (bytes i32[C], f32[C, 2 terms]: each term's sum and count).

    Kept from call to call, so that a run compiles its evaluation once.
    """
    model, objective = same_model.it, same_objective.it
    first = next(iter(objective.terms.values()))

    def sums(params: Any, batch: Mapping[str, jax.Array], byte_lengths: jax.Array) -> Any:
        cast = jax.tree.map(lambda x: x.astype(compute), params)
        if mesh is not None:
            cast = at_rest(cast, model.letters_of(cast))
        values = objective(model.merge(cast), batch, None)

        def total(each: jax.Array, term: Any) -> jax.Array:
            # A position that does not count may cost anything, also infinity.
            kept = jnp.where(batch[term.weight] > 0, each, 0).reshape(each.shape[0], -1).sum(1)
            return jax.ops.segment_sum(kept, batch["component"], components)

        # Ids that the tokenizer does not have (sentinels) stand for no bytes.
        spelled = byte_lengths.at[batch[first.targets]].get(mode="fill", fill_value=0)
        totals = [
            column
            for name, term in objective.terms.items()
            for column in (total(values[name], term), total(jnp.ones_like(values[name]), term))
        ]
        return total(spelled, first), jnp.stack(totals, axis=1)

    if mesh is None:
        return jax.jit(sums)
    laid_out = Layout(*(dict(table) for table in layout or _hashable("replicated") or ()))
    whole = NamedSharding(mesh, P())
    jitted = jax.jit(sums, out_shardings=whole)
    rows_table = LAYOUTS["replicated"].in_flight

    def run(params: Any, batch: Rows, byte_lengths: jax.Array) -> Any:
        arrays = {
            name: jax.make_array_from_callback(
                leaf.shape,
                NamedSharding(
                    mesh, spec(objective.letters.get(name, "BL"[: leaf.ndim]), rows_table)
                ),
                lambda at, leaf=leaf: leaf[at],
            )
            for name, leaf in batch.items()
        }
        lengths = jax.make_array_from_callback(
            byte_lengths.shape, whole, lambda at: np.asarray(byte_lengths)[at]
        )
        with partition(mesh, laid_out):
            return jitted(params, arrays, lengths)

    return run
