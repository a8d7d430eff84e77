"""What a model in training does with text, for people to read: continue it, or fill it in."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.decoding import replication
from gesso.evaluation.heldout.rows import heldout_rows
from gesso.models.model import Model, build
from gesso.partitioning.axes import einsum


class Sample(NamedTuple):
    """What was given, and what the model made of it: read one after the other."""

    prompt: str
    text: str


def samples(
    model: Model,
    objective: Any,
    params: Any,
    store: Store,
    *,
    length: int,
    prompts: Sequence[str],
    max_tokens: int,
    seed: int,
    compute: str = "float32",
) -> list[Sample]:
    """One sample for each prompt, in the way of the objective's kind.

    Left to right: what the model writes after each of `prompts`, up to `max_tokens`. Masked: the
    first max_tokens of as many held-out rows, their predicted tokens in brackets: "_" or what
    stands in their place, then the model's guess, and after a "≠" what was there. Denoised spans,
    source to target: the first piece of as many held-out rows, and what the model writes for it,
    greedily. Of a mix, its first part. No samples of what writes in no such way, or where nothing
    is held out.
    """
    if objective.config.kind == "mixed":
        objective = next(iter(objective.parts.values()))
    kind, options = objective.config.kind, {"max_tokens": max_tokens, "compute": compute}
    continues = kind == "causal" or (kind == "denoise" and objective.config.form != "spans")
    if continues:
        from gesso.evaluation.generation.decoder import generate

        nucleus: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": seed}
        tokenizer = store.tokenizer()
        texts = generate(
            model,
            params,
            tokenizer,
            list(prompts),
            objective=objective.config,
            **nucleus,
            **options,
        )
        return [Sample(*pair) for pair in zip(prompts, texts, strict=True)]
    makers = {"masked": _fill, "denoise": _write, "seq2seq": _write}
    batch = _heldout(objective, store, length=length, rows=len(prompts))
    if kind not in makers or batch is None:
        return []
    return makers[kind](model, objective, params, batch, store.tokenizer(), **options)


def _heldout(objective: Any, store: Store, *, length: int, rows: int) -> Any:
    """The batch of the first component's rows that has some, spread evenly over them."""
    for component in store.components:
        blocks = heldout_rows(
            store,
            component,
            length=objective.row_length(length),
            overlap=objective.overlap,
            overhead=objective.overhead,
            companions=objective.companions,
            rows=rows,
            block=rows,
        )
        for block in blocks:
            return objective.host_batch(block)
    return None


def _fill(
    model: Model,
    objective: Any,
    params: Any,
    batch: Any,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    compute: str,
) -> list[Sample]:
    run = _guesses(model.config, compute, replication(params))
    guesses = np.asarray(run(params, batch))
    made = []
    for row in range(len(guesses)):
        places = batch["masked_places"][row]
        counted = (batch["mlm_weight"][row] > 0) & (places < max_tokens)
        given = batch["tokens"][row][: min(max_tokens, (batch["segments"][row] > 0).sum())]
        targets = batch["targets"][row]
        found = places[counted], targets[counted], guesses[row][counted]
        made.append(_in_brackets(tokenizer, given, *found))
    return made


def _write(
    model: Model,
    objective: Any,
    params: Any,
    batch: Any,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    compute: str,
) -> list[Sample]:
    from gesso.evaluation.generation.prompts import framing_of
    from gesso.evaluation.generation.seq2seq import continuations

    framing = framing_of(objective.config, model.config)
    given = {name: np.zeros_like(batch[name]) for name in ("source", "source_segments")}
    for row, segments in enumerate(batch["source_segments"]):
        piece = batch["source"][row][segments == segments[0]] if segments[0] else np.zeros(0)
        # Damaged text may be cut anywhere; of a pair, the source is read whole.
        piece = piece[:max_tokens] if objective.config.kind == "denoise" else piece
        given["source"][row, : len(piece)] = piece
        given["source_segments"][row, : len(piece)] = 1
    longest = model.config.longest
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    made = continuations(
        model,
        params,
        given | {"tokens": np.full((len(batch["source"]), 1), framing.start, np.int32)},
        max_tokens=max_tokens if longest is None else min(max_tokens, longest),
        eos=int(tokenizer.eos),
    )

    def text(ids: np.ndarray) -> str:
        body = ids[: np.argmax(np.append(ids, tokenizer.eos) == tokenizer.eos)]
        spelled = framing.sentinels.first - framing.sentinels.count < body
        spelled &= body <= framing.sentinels.first
        known = body[(body < tokenizer.vocab_size) | spelled]
        return framing.sentinels.decode(known.tolist(), tokenizer)

    return [
        Sample(text(source[seen > 0]), f"\n→ {text(ids)}")
        for source, seen, ids in zip(given["source"], given["source_segments"], made, strict=True)
        if seen.any()
    ]


@functools.lru_cache(maxsize=4)
def _guesses(config: Any, compute: str, whole: Any) -> Callable[[Any, Any], jax.Array]:
    """(params, batch) -> the likeliest id at each masked place, i32[B, M]; compiled once a run."""
    model = build(config)

    def run(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        module = model.merge(jax.tree.map(lambda x: x.astype(compute), params))
        x_BLD = module.features(batch, None)
        x_BMD = jnp.take_along_axis(x_BLD, batch["masked_places"][..., None], axis=1)
        h_BMD, table_VD, bias_V = module.predict(x_BMD)
        logits_BMV = einsum("BMD,VD->BMV", h_BMD, table_VD, preferred_element_type=jnp.float32)
        return jnp.argmax(logits_BMV if bias_V is None else logits_BMV + bias_V, axis=-1)

    return jax.jit(run, out_shardings=whole)


def _in_brackets(
    tokenizer: Tokenizer,
    given: np.ndarray,
    places: np.ndarray,
    targets: np.ndarray,
    guesses: np.ndarray,
) -> Sample:
    truth = given.copy()
    truth[places] = targets

    def word(token: int) -> str:
        known = token < tokenizer.vocab_size
        return tokenizer.decode([token]).strip() or "_" if known else "_"

    before, after = [], []
    for place, text in _texts(tokenizer, truth):
        at = np.flatnonzero(places == place)
        if not len(at):
            before.append(text)
            after.append(text)
            continue
        space = text[: len(text) - len(text.lstrip())]
        right, guess = int(targets[at[0]]), int(guesses[at[0]])
        said = word(guess) if guess == right else f"{word(guess)}≠{word(right)}"
        before.append(f"{space}[{word(int(given[place]))}]")
        after.append(f"{space}[{said}]")
    return Sample("".join(before), "\n→ " + "".join(after))


def _texts(tokenizer: Tokenizer, ids: np.ndarray) -> Iterator[tuple[int, str]]:
    """(place, what it adds to the text) of every id that the tokenizer has."""
    places = np.flatnonzero(ids < tokenizer.vocab_size)
    whole = tokenizer.decode(ids[places])
    begin = 0
    for count, place in enumerate(places.tolist(), 1):
        end = len(tokenizer.decode(ids[places[:count]]))
        yield place, whole[begin:end]
        begin = max(begin, end)
