"""Beam search: the likeliest continuations found with a few candidates kept at every length."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.evaluation.generation.decoding import begin, check_room, replication, take_rows
from gesso.models.model import Model, build


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """What a hypothesis's log-likelihood is divided by; n counts its tokens, the end included.

    kind: "wu": ((5 + n) / 6) ** alpha (https://arxiv.org/abs/1609.08144, equation 14); "power":
    n ** alpha, 1 being the mean per token. alpha: 0 compares plain log-likelihoods; larger ones
    favour longer hypotheses.
    """

    kind: Literal["wu", "power"] = "wu"
    alpha: float = 0.0

    def __call__(self, length: Any) -> Any:
        return _penalty(self.kind, self.alpha, length)


NO_PENALTY = LengthPenalty()


class Hypotheses(NamedTuple):
    """The best of each row, best first.

    ids: i32[B, K, T], the end id behind each hypothesis's own end. scores: f32[B, K], the
    log-likelihood over the length penalty; -inf where a row has fewer than K. lengths: i32[B, K],
    the end included; T without one for a hypothesis that was cut.
    """

    ids: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray


class _State(NamedTuple):
    made: jax.Array  # i32[]: tokens of every live beam
    cache: Any  # rows are row * K + beam
    live_ids: jax.Array  # i32[B, K, T]
    live: jax.Array  # f32[B, K], log-likelihoods; -inf: no such beam
    ids: jax.Array  # the same of what has ended
    scores: jax.Array
    lengths: jax.Array


def beam_search(
    model: Model,
    params: Any,
    batch: Mapping[str, Any],
    *,
    beams: int,
    max_tokens: int,
    eos: int,
    penalty: LengthPenalty = NO_PENALTY,
    allowed: Any = None,
) -> Hypotheses:
    """The `beams` best hypotheses found for every row, of up to `max_tokens` tokens.

    batch: what is given, as evaluation.generation.decoding.begin reads it: "tokens" that the
    decoder reads first, and the "source" of an encoder-decoder. allowed: bool[V], the ids that may
    be made; None: all.

    At every length the `beams` likeliest continuations of all live beams are taken. Those that end
    are set aside with the penalty applied, the others live on; what is live at `max_tokens` counts
    as it is. A row is done when no live beam can still beat the worst hypothesis it keeps, whatever
    its length. One beam is greedy decoding; as many beams as there are continuations, exhaustive
    search. Raises ValueError for counts below 1 and for more tokens than the model has positions.
    """
    if beams < 1 or max_tokens < 1:
        raise ValueError(f"beams {beams} and max_tokens {max_tokens} must be at least 1")
    check_room(model, batch, max_tokens)
    if allowed is None:
        allowed = np.ones(model.config.vocab, bool)
    whole = {name: jnp.asarray(leaf) for name, leaf in batch.items()}
    run = _compile(model.config, beams, max_tokens, penalty.kind, replication(params))
    alpha = jnp.float32(penalty.alpha)
    found = run(params, whole, alpha, jnp.int32(eos), jnp.asarray(allowed))
    return Hypotheses(*map(np.asarray, found))


@functools.lru_cache(maxsize=8)
def _compile(
    config: Any, beams: int, max_tokens: int, kind: Any, everywhere: NamedSharding | None
) -> Any:
    model = build(config)

    def run(params: Any, batch: Any, alpha: Any, eos: Any, allowed: Any) -> Hypotheses:
        cache, token_B, position_B = begin(model, params, batch, max_tokens)
        rows = token_B.shape[0]
        none = jnp.full((rows, beams), -jnp.inf)
        ids = jnp.full((rows, beams, max_tokens), eos, jnp.int32)
        # One beam per row at first: equal ones would make equal continuations.
        state = _State(
            made=jnp.int32(0),
            cache=take_rows(cache, jnp.repeat(jnp.arange(rows), beams), source="take"),
            live_ids=ids,
            live=none.at[:, 0].set(0.0),
            ids=ids,
            scores=none,
            lengths=jnp.zeros((rows, beams), jnp.int32),
        )

        def goes_on(state: _State) -> jax.Array:
            # The penalty is monotonic in the length: a beam scores highest at one of both ends.
            soon, late = (_penalty(kind, alpha, n) for n in (state.made + 1, max_tokens))
            possible = jnp.maximum(state.live / soon, state.live / late).max(axis=1)
            return (state.made < max_tokens) & (possible > state.scores.min(axis=1)).any()

        def one(state: _State) -> _State:
            last = jax.lax.dynamic_index_in_dim(
                state.live_ids, jnp.maximum(state.made - 1, 0), axis=2, keepdims=False
            )
            last = jnp.where(state.made == 0, token_B[:, None], last)
            place = jnp.broadcast_to(position_B[:, None] + state.made, last.shape)
            step = {"tokens": last.reshape(-1, 1), "positions": place.reshape(-1, 1)}
            logits, cache = model.decode(params, state.cache, step, "last")
            logits = jnp.where(allowed, logits[:, 0], -jnp.inf).reshape(rows, beams, -1)
            total = state.live[..., None] + jax.nn.log_softmax(logits)
            best, at = jax.lax.top_k(total.reshape(rows, -1), beams)
            parent, token = at // total.shape[-1], (at % total.shape[-1]).astype(jnp.int32)
            made, ends = state.made + 1, token == eos
            grown = jnp.take_along_axis(state.live_ids, parent[..., None], axis=1)
            grown = jax.lax.dynamic_update_index_in_dim(grown, token, state.made, axis=2)
            scores = jnp.where(
                ends | (made == max_tokens), best / _penalty(kind, alpha, made), -jnp.inf
            )
            kept = _best(state, grown, scores, made)
            chosen = (jnp.arange(rows)[:, None] * beams + parent).reshape(-1)
            return kept._replace(
                made=made,
                cache=take_rows(cache, chosen, source="keep"),
                live_ids=grown,
                live=jnp.where(ends, -jnp.inf, best),
            )

        end = jax.lax.while_loop(goes_on, one, state)
        return Hypotheses(end.ids, end.scores, end.lengths)  # pyright: ignore[reportArgumentType]

    return jax.jit(run, out_shardings=everywhere)


def _best(state: _State, ids: jax.Array, scores: jax.Array, length: jax.Array) -> _State:
    """The state with the best of what it keeps and of new hypotheses of one length."""
    both = jnp.concatenate([state.scores, scores], axis=1)
    lengths = jnp.concatenate([state.lengths, jnp.full(scores.shape, length)], axis=1)
    scores, at = jax.lax.top_k(both, scores.shape[1])
    return state._replace(
        ids=jnp.take_along_axis(jnp.concatenate([state.ids, ids], axis=1), at[..., None], axis=1),
        scores=scores,
        lengths=jnp.take_along_axis(lengths, at, axis=1),
    )


def _penalty(kind: Literal["wu", "power"], alpha: Any, length: Any) -> Any:
    return ((5 + length) / 6 if kind == "wu" else 1.0 * length) ** alpha
