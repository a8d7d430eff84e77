"""Text from a model: prompts together, keys and values kept, tokens in chunks or one by one."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.beam import NO_PENALTY, LengthPenalty, beam_search
from gesso.evaluation.generation.decoding import over_rows, replication, restrict, until
from gesso.evaluation.generation.prompts import BUCKET, Prompt, PromptError, framing_of
from gesso.evaluation.generation.seq2seq import write_targets
from gesso.evaluation.generation.writing import Stream, Writer, before
from gesso.models.config import GPTConfig
from gesso.models.model import Model, build

CHUNK = 16  # tokens made per dispatch where nobody watches


class _State(NamedTuple):
    cache: Any
    token_B: jax.Array
    position_B: jax.Array
    done_B: jax.Array
    made: jax.Array


class _Sampling(NamedTuple):
    """Traced, so that another temperature is not another program."""

    key: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    vocab: jax.Array
    eos: jax.Array


def generate(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stops: Sequence[str] = (),
    stream: Stream | None = None,
    compute: str = "float32",
    beams: int = 1,
    penalty: LengthPenalty = NO_PENALTY,
    objective: Any = None,
) -> list[str]:
    """What the model writes after each prompt, up to the end of a document, `max_tokens` or the
    model's positions.

    temperature: 0 takes the likeliest token; else logits are divided by it. top_k: only the k
    likeliest (0: all). top_p: of those, only the likeliest that reach this probability together
    (nucleus sampling, https://arxiv.org/abs/1904.09751). A row's draws depend on `seed` and its
    number, not on the other prompts. stream: called as stream(row, text) with each new piece of
    whole characters. stops: texts that end what is written and are no part of it. compute: the
    dtype to multiply in. An empty prompt starts a document. Params that lie on a mesh keep their
    places; the rows are split over it where they divide.

    beams: more than one searches for the likeliest continuation (evaluation.generation.beam), with
    the length penalty; not sampled, and streamed only when it is found. objective: the run's, of an
    encoder-decoder, to which prompts are what it read in training (evaluation.generation.seq2seq).

    Raises PromptError for a prompt without room for one more token, and ValueError for settings
    outside their range, an empty stop, a model that does not write, or a tokenizer larger than the
    model's vocabulary.
    """
    if not model.writes:
        raise ValueError(
            f"a {model.config.family} model reads text and writes none; generate with a decoder or"
            " an encoder-decoder"
        )
    _check(model.config, tokenizer, max_tokens, temperature, top_k, top_p, beams)
    if "" in stops:
        raise ValueError("an empty text stops everything; leave it out of stops")
    if not prompts:
        return []
    if model.has_encoder or beams > 1:
        search: dict[str, Any] = {"max_tokens": max_tokens, "compute": compute}
        search |= {"beams": beams, "penalty": penalty}
        if model.has_encoder:
            search["framing"] = framing_of(objective, model.config)
            search |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
            texts = write_targets(model, params, tokenizer, prompts, **search)
        else:
            texts = _search(model, params, tokenizer, prompts, **search)
        texts = [before(text, stops) for text in texts]
        if stream is not None:
            for row, text in enumerate(texts):
                stream(row, text)
        return texts
    batch = _pad_left([_ids(prompt, tokenizer) for prompt in prompts], _longest(model))
    rows, length = batch["tokens"].shape
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    assert isinstance(model.config, GPTConfig)  # it writes without a source
    programs = _programs(model.config, temperature > 0, top_k, replication(params))
    sampling = _Sampling(
        key=jax.random.key(seed),
        temperature=jnp.float32(temperature),
        top_p=jnp.float32(top_p),
        vocab=jnp.int32(tokenizer.vocab_size),
        eos=jnp.int32(tokenizer.eos),
    )
    slots = -(-(length + max_tokens) // BUCKET) * BUCKET
    cache = model.init_cache(rows, slots, compute)
    over = over_rows(params)
    batch = over.place(batch) if rows % over.parts == 0 else batch
    state, tokens = programs.prefill(params, cache, batch, sampling)
    writer = Writer(tokenizer, rows, max_tokens, stops, stream)
    writer.add(np.asarray(tokens))
    step = programs.one if stream else programs.chunk
    while not writer.full:
        state, tokens = step(params, state, sampling)
        writer.add(np.asarray(tokens))
    return writer.finish()


def _search(
    model: Model, params: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt], **search: Any
) -> list[str]:
    """What beam search finds for a decoder's prompts."""
    batch = _pad_left([_ids(prompt, tokenizer) for prompt in prompts], _longest(model))
    room = _longest(model) - int(batch["positions"].max())
    params = jax.tree.map(lambda each: jnp.asarray(each, search["compute"]), params)
    found = beam_search(
        model,
        params,
        batch,
        beams=search["beams"],
        max_tokens=min(search["max_tokens"], room),
        eos=int(tokenizer.eos),
        penalty=search["penalty"],
        allowed=np.arange(model.config.vocab) < tokenizer.vocab_size,
    )
    best = found.ids[:, 0].tolist()
    return [tokenizer.decode(until(row, int(tokenizer.eos))) for row in best]


def _ids(prompt: Prompt, tokenizer: Tokenizer) -> Sequence[int] | np.ndarray:
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    return ids if len(ids) else [tokenizer.eos]


class _Programs(NamedTuple):
    prefill: Any
    one: Any
    chunk: Any


@functools.lru_cache(maxsize=8)
def _programs(
    config: GPTConfig, sampled: bool, top_k: int, replicated: NamedSharding | None
) -> _Programs:
    """The compiled functions, kept from call to call: samples during training compile once."""
    model = build(config)

    def after(params: Any, cache: Any, batch: Any, position_B: Any, s: _Sampling, made: Any) -> Any:
        logits_BLV, cache = model.decode(params, cache, batch, "last")
        token_B = _draw(logits_BLV[:, 0], s, made, top_k) if sampled else _likeliest(logits_BLV, s)
        return cache, token_B, position_B + 1

    def prefill(params: Any, cache: Any, batch: Any, s: _Sampling) -> tuple[_State, jax.Array]:
        made = jnp.int32(0)
        last_B = batch["positions"][:, -1]
        cache, token_B, position_B = after(params, cache, batch, last_B, s, made)
        done_B = (token_B == s.eos) | (position_B >= config.longest)
        return _State(cache, token_B, position_B, done_B, made + 1), token_B[None]

    def several(count: int) -> Any:
        def one(params: Any, s: _Sampling, state: _State, _: None) -> tuple[_State, jax.Array]:
            # A finished row goes on at its last place, and what it makes is thrown away.
            place_B = jnp.minimum(state.position_B, config.longest - 1)
            batch = {"tokens": state.token_B[:, None], "positions": place_B[:, None]}
            cache, token_B, position_B = after(
                params, state.cache, batch, state.position_B, s, state.made
            )
            token_B = jnp.where(state.done_B, s.eos, token_B)
            done_B = state.done_B | (token_B == s.eos) | (position_B >= config.longest)
            return _State(cache, token_B, position_B, done_B, state.made + 1), token_B

        def run(params: Any, state: _State, s: _Sampling) -> tuple[_State, jax.Array]:
            return jax.lax.scan(functools.partial(one, params, s), state, None, length=count)

        return run

    compiled = functools.partial(jax.jit, donate_argnums=1, out_shardings=(None, replicated))
    return _Programs(compiled(prefill), compiled(several(1)), compiled(several(CHUNK)))


def _likeliest(logits_BLV: jax.Array, s: _Sampling) -> jax.Array:
    return jnp.argmax(_within(logits_BLV[:, 0], s), axis=-1).astype(jnp.int32)


def _draw(logits_BV: jax.Array, s: _Sampling, made: jax.Array, top_k: int) -> jax.Array:
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(s.key, row), made))(
        jnp.arange(logits_BV.shape[0])
    )
    kept_BV = restrict(_within(logits_BV, s) / s.temperature, top_k=top_k, top_p=s.top_p)
    return jax.vmap(jax.random.categorical)(keys, kept_BV).astype(jnp.int32)


def _within(logits_BV: jax.Array, s: _Sampling) -> jax.Array:
    """Without the ids that a model has and its tokenizer has not (padded vocabularies)."""
    return jnp.where(jnp.arange(logits_BV.shape[-1]) < s.vocab, logits_BV, -jnp.inf)


def _check(
    config: Any,
    tokenizer: Tokenizer,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    beams: int,
) -> None:
    if tokenizer.vocab_size > config.vocab:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab}: this"
            " model was trained with another one"
        )
    if beams < 1 or (beams > 1 and temperature):
        raise ValueError(
            f"{beams} beams at temperature {temperature}: beams are at least 1, and more than one"
            " search without sampling (temperature 0)"
        )
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature {temperature} and top_k {top_k} cannot be negative, and top_p {top_p}"
            " must be above 0 and at most 1"
        )
    if temperature == 0 and (top_k > 1 or top_p < 1):
        raise ValueError(
            "top_k and top_p have no effect at temperature 0, which takes the likeliest token; set"
            " a temperature"
        )


def _longest(model: Model) -> int:
    """The most tokens of prompt and continuation: rows of the table of positions less those before
    a document's first."""
    assert model.config.longest is not None, "a decoder's rows end"
    return model.config.longest


def _pad_left(ids: Sequence[Any], longest: int) -> dict[str, np.ndarray]:
    """Prompts that end together: tokens, segments (0 for padding), positions, i32[rows, length]."""
    for row, each in enumerate(ids):
        if len(each) >= longest:
            raise PromptError(
                f"prompt {row} has {len(each)} tokens and the model {longest} positions,"
                f" one of which the continuation needs; shorten it to {longest - 1}"
            )
    length = min(-(-max(map(len, ids)) // BUCKET) * BUCKET, longest)
    batch = {
        name: np.zeros((len(ids), length), np.int32) for name in ("tokens", "segments", "positions")
    }
    for row, each in enumerate(ids):
        batch["tokens"][row, length - len(each) :] = each
        batch["segments"][row, length - len(each) :] = 1
        batch["positions"][row, length - len(each) :] = np.arange(len(each))
    return batch
