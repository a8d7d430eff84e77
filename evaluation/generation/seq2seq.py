"""Text from an encoder-decoder: a source is read once, a target written greedily, sampled, or by
beam search."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.beam import NO_PENALTY, LengthPenalty, beam_search
from gesso.evaluation.generation.decoding import begin, check_room, replication, restrict, until
from gesso.evaluation.generation.prompts import BUCKET, Framing, Prompt, PromptError
from gesso.models.model import Model, build


def write_targets(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    framing: Framing,
    max_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    compute: str = "float32",
    beams: int = 1,
    penalty: LengthPenalty = NO_PENALTY,
) -> list[str]:
    """What the model writes for each prompt, up to the end, `max_tokens` or its positions.

    evaluation.generation.decoder.generate, which calls this, says and checks the settings. Raises
    PromptError for a prompt longer than the model's positions, or with a sentinel that there is
    not.
    """
    longest, eos, spelled = model.config.longest, int(tokenizer.eos), framing.sentinels
    ids = [
        spelled.encode(prompt, tokenizer) if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    batch = _batch(ids, framing, eos, longest)
    if longest is not None:
        max_tokens = min(max_tokens, longest + 1 - int(batch["positions"].max() + 1))
    allowed = np.zeros(model.config.vocab, bool)
    allowed[: tokenizer.vocab_size] = True
    allowed[spelled.first - spelled.count + 1 : spelled.first + 1] = True
    settings: dict[str, Any] = {"max_tokens": max_tokens, "eos": eos, "allowed": allowed}
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    if beams > 1:
        found = beam_search(model, params, batch, beams=beams, penalty=penalty, **settings)
        made = found.ids[:, 0]
    else:
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        made = continuations(model, params, batch, **settings, **sampling)
    return [spelled.decode(until(row, eos), tokenizer) for row in made.tolist()]


def _batch(
    ids: Sequence[list[int]], framing: Framing, eos: int, longest: int | None
) -> dict[str, np.ndarray]:
    """What evaluation.generation.decoding.begin reads, of the prompts' ids."""
    mode = [framing.mode] if framing.mode >= 0 else []
    if framing.prompt == "written":
        source, begun = [mode or [eos] for _ in ids], [[framing.start, *each] for each in ids]
    else:
        end = [eos] if framing.prompt == "source_and_end" else []
        source = [[*mode, *each, *end] or [eos] for each in ids]
        begun = [[framing.start] for _ in ids]
    read = _pad(source, longest, at="end")
    return _pad(begun, longest, at="start") | {
        "source": read["tokens"],
        "source_segments": read["segments"],
    }


def _pad(
    ids: Sequence[list[int]], longest: int | None, *, at: Literal["start", "end"]
) -> dict[str, np.ndarray]:
    """tokens, segments (0: padding) and positions i32[rows, length]. The length is a multiple of
    BUCKET, so that few are compiled, but 1 where all have one token; at most `longest`."""
    most = max(map(len, ids))
    if longest is not None and most > longest:
        row = next(i for i, each in enumerate(ids) if len(each) > longest)
        raise PromptError(
            f"prompt {row} has {len(ids[row])} tokens with what frames it, and the model {longest}"
            " positions; shorten it"
        )
    length = -(-most // BUCKET) * BUCKET if most > 1 else 1
    length = length if longest is None else min(length, longest)
    names = ("tokens", "segments", "positions")
    batch = {name: np.zeros((len(ids), length), np.int32) for name in names}
    for row, each in enumerate(ids):
        begin = 0 if at == "end" else length - len(each)
        place = slice(begin, begin + len(each))
        batch["tokens"][row, place] = each
        batch["segments"][row, place] = 1
        batch["positions"][row, place] = np.arange(len(each))
    return batch


class _Sampling(NamedTuple):
    """Traced, so that another temperature is not another program."""

    key: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    eos: jax.Array
    allowed: jax.Array


def continuations(
    model: Model,
    params: Any,
    batch: Mapping[str, Any],
    *,
    max_tokens: int,
    eos: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    allowed: Any = None,
) -> np.ndarray:
    """i32[B, max_tokens]: what is written for each source, `eos` from its end on.

    batch: what is given, as evaluation.generation.decoding.begin reads it. eos: -1 never ends.
    temperature: 0 takes the likeliest token. allowed: bool[V], the ids that may be made; None: all.
    A row's draws depend on `seed` and its number.
    """
    check_room(model, batch, max_tokens)
    if allowed is None:
        allowed = np.ones(model.config.vocab, bool)
    sampling = _Sampling(
        key=jax.random.key(seed),
        temperature=jnp.float32(temperature),
        top_p=jnp.float32(top_p),
        eos=jnp.int32(eos),
        allowed=jnp.asarray(allowed),
    )
    run = _compile(model.config, max_tokens, temperature > 0, top_k, replication(params))
    return np.asarray(run(params, {k: jnp.asarray(v) for k, v in batch.items()}, sampling))


@functools.lru_cache(maxsize=8)
def _compile(
    config: Any, max_tokens: int, sampled: bool, top_k: int, everywhere: NamedSharding | None
) -> Any:
    """(params, batch, sampling) -> i32[B, max_tokens]; it stops when every row has ended."""
    model = build(config)

    def choose(logits_BV: jax.Array, s: _Sampling, made: jax.Array) -> jax.Array:
        logits_BV = jnp.where(s.allowed, logits_BV, -jnp.inf)
        if not sampled:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        rows = jnp.arange(logits_BV.shape[0])
        fold = jax.random.fold_in
        keys = jax.vmap(lambda row: fold(fold(s.key, row), made))(rows)
        kept_BV = restrict(logits_BV / s.temperature, top_k=top_k, top_p=s.top_p)
        return jax.vmap(jax.random.categorical)(keys, kept_BV).astype(jnp.int32)

    def run(params: Any, batch: Any, s: _Sampling) -> jax.Array:
        cache, token_B, position_B = begin(model, params, batch, max_tokens)
        rows = token_B.shape[0]
        ids = jnp.full((rows, max_tokens), s.eos, jnp.int32)
        first = (cache, token_B, jnp.zeros(rows, bool), ids, jnp.int32(0))

        def goes_on(state: Any) -> jax.Array:
            _, _, done_B, _, made = state
            return (made < max_tokens) & ~done_B.all()

        def one(state: Any) -> Any:
            cache, token_B, done_B, ids, made = state
            last = {"tokens": token_B[:, None], "positions": (position_B + made)[:, None]}
            logits_BLV, cache = model.decode(params, cache, last, "last")
            token_B = jnp.where(done_B, s.eos, choose(logits_BLV[:, 0], s, made))
            ids = jax.lax.dynamic_update_index_in_dim(ids, token_B, made, axis=1)
            return cache, token_B, done_B | (token_B == s.eos), ids, made + 1

        return jax.lax.while_loop(goes_on, one, first)[3]

    return jax.jit(run, out_shardings=everywhere)
