"""Answers that are spans of a context: where they begin and end, and the best span there is."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.labelled.store import TaskStore
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Term
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.labelled.base import Labelled
from gesso.objectives.labelled.config import QAConfig


class QA(Labelled):
    """Term: "qa", the mean of the negative log-likelihoods of the answer's start and end, over the
    places of its own segment: published code takes the padding of a row in, too, which would make
    a loss of its neighbours."""

    kind = "qa"
    letters: Mapping[str, str] = {
        "begins": "BP",
        "ends": "BP",
        "starts_at": "BP",
        "ends_at": "BP",
        "span_weight": "BP",
    }
    config: QAConfig

    def __init__(
        self,
        config: QAConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        super().__init__(config, tokenizer=tokenizer, model=model, store=store)
        self.terms: Mapping[str, Term] = {"qa": Term(weight="span_weight")}

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of a task store -> tokens, segments, positions, token_types, context i32[n, L];
        begins, ends, starts_at, ends_at i32[n, P], places of the row; span_weight f32[n, P];
        component i32[n]."""
        made, held = self.frame(rows), self.presence(rows)
        spans = rows.get("spans", np.zeros((*held.shape, 2), np.int32))
        context = rows.get("context", np.zeros_like(made["tokens"]))
        return made | {
            "context": context,
            "starts_at": np.ascontiguousarray(spans[..., 0], np.int32),
            "ends_at": np.ascontiguousarray(spans[..., 1], np.int32),
            "span_weight": held,
        }

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(what `__call__` gives, `best_spans`)."""
        both_BL2 = module.answer_span(module.features(batch, key))
        start_BL, end_BL = both_BL2[..., 0], both_BL2[..., 1]
        own_BPL = _own(batch)
        nll = (
            _nll(start_BL, own_BPL, batch["starts_at"]) + _nll(end_BL, own_BPL, batch["ends_at"])
        ) / 2
        return {"qa": nll}, best_spans(start_BL, end_BL, batch, longest=self.config.answer)

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{"qa": f32[B, P]}. No key, no dropout."""
        return self.score(module, batch, key)[0]


def best_spans(
    start_BL: jax.Array, end_BL: jax.Array, batch: Mapping[str, jax.Array], *, longest: int
) -> dict[str, jax.Array]:
    """Of each segment {"score", "null": f32[B, P], "start", "size": i32[B, P]}: the best sum of a
    start's and an end's logit, start <= end < start + longest, both in the context and the start
    where no other window shows more around it (batch["context"]); where it starts, from the
    segment's first token on, and its tokens. null: the sum at the segment's first token. A segment
    without such a place scores -inf."""
    context_BL = batch["context"]
    length = start_BL.shape[1]
    begin_BL = jnp.where(context_BL == 2, start_BL, -jnp.inf)
    stop_BL = jnp.where(context_BL > 0, end_BL, -jnp.inf)

    def longer(size: jax.Array, best: tuple[jax.Array, jax.Array]) -> Any:
        # An end `size` places on, in the same segment.
        at = jnp.arange(length) + size
        inside = (at < length) & (batch["segments"] == jnp.roll(batch["segments"], -size, axis=1))
        score_BL = begin_BL + jnp.where(inside, jnp.roll(stop_BL, -size, axis=1), -jnp.inf)
        better = score_BL > best[0]
        return jnp.where(better, score_BL, best[0]), jnp.where(better, size, best[1])

    nothing = (jnp.full(start_BL.shape, -jnp.inf), jnp.zeros(start_BL.shape, jnp.int32))
    score_BL, size_BL = jax.lax.fori_loop(0, min(longest, length), longer, nothing)
    of_segment = jnp.where(_own(batch), score_BL[:, None], -jnp.inf)
    place_BP = of_segment.argmax(-1)
    first = batch["begins"]

    def at(x_BL: jax.Array, places_BP: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BL, places_BP, axis=1)

    return {
        "score": of_segment.max(-1),
        "null": at(start_BL, first) + at(end_BL, first),
        "start": (place_BP - first).astype(jnp.int32),
        "size": at(size_BL, place_BP) + 1,
    }


def _own(batch: Mapping[str, jax.Array]) -> jax.Array:
    """bool[B, P, L]: whether a place is of a segment."""
    number_P = 1 + jnp.arange(batch["begins"].shape[1])
    return batch["segments"][:, None] == number_P[:, None]


def _nll(logits_BL: jax.Array, own_BPL: jax.Array, target_BP: jax.Array) -> jax.Array:
    # Of a segment that is not there nothing counts, but its loss must be a number: not the lowest
    # one, of which two are no number.
    log_z_BP = jax.nn.logsumexp(jnp.where(own_BPL, logits_BL[:, None], -1e9), axis=-1)
    return log_z_BP - jnp.take_along_axis(logits_BL, target_BP, axis=1)
