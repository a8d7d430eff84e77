"""How likely given continuations are: what comes before them is read once for all of them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gesso.evaluation.generation.decoding import begin, over_rows, replication, take_rows
from gesso.evaluation.generation.prompts import BUCKET
from gesso.models.model import Model, build

# Options are padded to a power of two from this on, so that few lengths are compiled.
_SHORTEST = 8
# Logits of one call, on each device: a gigabyte of float32. Long options go fewer at a time.
_LOGITS = 2**28


class Asked(NamedTuple):
    """Ids that are given and options that may follow them. source: what an encoder reads, for an
    encoder-decoder. skipped: how many ids at the beginning of an option are read but not scored."""

    given: Sequence[int]
    options: Sequence[Sequence[int]]
    source: Sequence[int] = ()
    skipped: Sequence[int] = ()


class Likelihood(NamedTuple):
    """nats: the log-probability of an option's scored ids, at most 0. greedy: whether each was the
    likeliest id in its place."""

    nats: float
    greedy: bool


def likelihoods(
    model: Model,
    params: Any,
    asked: Sequence[Asked],
    *,
    rows: int = 32,
    compute: str = "float32",
    told: Callable[[int], Any] = int,
) -> list[list[Likelihood]]:
    """Of every option of everything asked, in its order.

    What is given is encoded, or read into the decoding cache, once; its keys and values are then
    taken by each of its options, of which `rows` at a time are scored. rows and the order of what
    is asked change no figure but for rounding. compute: the dtype to multiply in. told: called with
    the number of options just scored. Params that lie on a mesh keep their places, and the rows are
    split over it. Raises ValueError for a model that
    does not predict the next token, for something asked without given ids or with an empty option,
    and where given, option and source exceed the model's positions.
    """
    _check(model, asked)
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    run, rows_over = _compile(model.config, replication(params)), over_rows(params)
    found: list[list[Likelihood]] = [[Likelihood(0.0, True)] * len(each.options) for each in asked]
    for owners, options in _portions(asked, rows, model.config, rows_over.parts):
        given = [asked[owner] for owner in owners]
        batch = rows_over.place(_inputs(given, model.config.longest, rows_over.parts))
        follows = _options(
            [given[at] for at, _ in options], options, model.config.longest, rows_over.parts
        )
        nats, greedy = jax.device_get(run(params, batch, rows_over.place(follows)))
        for row, (at, option) in enumerate(options):
            found[owners[at]][option] = Likelihood(float(nats[row]), bool(greedy[row]))
        told(len(options))
    return found


class _Follows(NamedTuple):
    """Options as rows: owner i32[B], their place among what is given; tokens i32[B, L]; scored
    bool[B, L]; filled bool[B, L]."""

    owner_B: np.ndarray
    tokens_BL: np.ndarray
    scored_BL: np.ndarray
    filled_BL: np.ndarray


@functools.lru_cache(maxsize=8)
def _compile(config: Any, everywhere: NamedSharding | None) -> Any:
    """(params, batch, follows) -> (nats f32[B], greedy bool[B])."""
    model = build(config)

    def run(params: Any, batch: Any, follows: Any) -> tuple[jax.Array, jax.Array]:
        owner_B, tokens_BL, scored_BL, filled_BL = follows
        width = tokens_BL.shape[1]
        cache, last_B, place_B = begin(model, params, batch, width)
        cache = take_rows(cache, owner_B, source="take")
        # The last given token predicts the first of the option, and so on.
        read_BL = jnp.concatenate([last_B[owner_B][:, None], tokens_BL[:, :-1]], axis=1)
        positions_BL = place_B[owner_B][:, None] + jnp.arange(width)
        rows = {
            "tokens": read_BL,
            "segments": filled_BL.astype(jnp.int32),
            # Padding stands anywhere, but inside the table.
            "positions": jnp.where(filled_BL, positions_BL, 0),
        }
        logits_BLV, _ = model.decode(params, cache, rows)
        logits_BLV = logits_BLV.astype(jnp.float32)
        at_token_BL = jnp.take_along_axis(logits_BLV, tokens_BL[..., None], -1)[..., 0]
        nats_BL = at_token_BL - jax.nn.logsumexp(logits_BLV, axis=-1)
        likeliest_BL = jnp.argmax(logits_BLV, axis=-1) == tokens_BL
        nats_B = jnp.where(scored_BL, nats_BL, 0).sum(-1)
        return nats_B, (likeliest_BL | ~scored_BL).all(-1)

    return jax.jit(run, out_shardings=everywhere)


def _check(model: Model, asked: Sequence[Asked]) -> None:
    if not model.writes:
        raise ValueError(
            f"a {model.config.family} model does not predict the next token; what continues a text"
            " has no likelihood under it"
        )
    longest = model.config.longest
    for place, each in enumerate(asked):
        if not len(each.given) or not all(map(len, each.options)):
            raise ValueError(
                f"number {place} has no given id or an empty option; begin with the end-of-document"
                " id and leave no option empty"
            )
        most = len(each.given) + max(map(len, each.options), default=1) - 1
        if longest is not None and max(most, len(each.source)) > longest:
            raise ValueError(
                f"number {place} needs {max(most, len(each.source))} positions and the model has"
                f" {longest}; shorten what is given"
            )


def _portions(
    asked: Sequence[Asked], rows: int, config: Any, parts: int
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """(places in `asked`, [(index into those, option)]): at most `rows` options of about the same
    lengths; what has more options than that is given again."""
    longest = config.longest
    sizes = [
        (
            _bucket(len(each.source), longest),
            _bucket(len(each.given), longest),
            _width(each, longest),
        )
        for each in asked
    ]
    owners: list[int] = []
    options: list[tuple[int, int]] = []
    for place in sorted(range(len(asked)), key=lambda place: sizes[place]):
        if owners and sizes[place] != sizes[owners[0]]:
            yield owners, options
            owners, options = [], []
        fitting = max(1, parts * _LOGITS // (sizes[place][-1] * config.vocab))
        most = min(_pad(rows, parts), 1 << (fitting.bit_length() - 1))
        for option in range(len(asked[place].options)):
            if len(options) == most:
                yield owners, options
                owners, options = [], []
            if not owners or owners[-1] != place:
                owners.append(place)
            options.append((len(owners) - 1, option))
    if options:
        yield owners, options


def _inputs(asked: Sequence[Asked], longest: int | None, parts: int) -> dict[str, np.ndarray]:
    """What evaluation.generation.decoding.begin reads; rows that fill it up are copies of the
    first, and belong to no option."""
    asked = [*asked, *[asked[0]] * (_pad(len(asked), parts) - len(asked))]
    length = _bucket(max(len(each.given) for each in asked), longest)
    names = ("tokens", "segments", "positions")
    batch = {name: np.zeros((len(asked), length), np.int32) for name in names}
    for row, each in enumerate(asked):
        place = slice(length - len(each.given), length)
        batch["tokens"][row, place] = each.given
        batch["segments"][row, place] = 1
        batch["positions"][row, place] = np.arange(len(each.given))
    if any(len(each.source) for each in asked):
        length = _bucket(max(len(each.source) for each in asked), longest)
        for name in ("source", "source_segments"):
            batch[name] = np.zeros((len(asked), length), np.int32)
        for row, each in enumerate(asked):
            batch["source"][row, : len(each.source)] = each.source
            batch["source_segments"][row, : len(each.source)] = 1
    return batch


def _options(
    asked: Sequence[Asked], options: Sequence[tuple[int, int]], longest: int | None, parts: int
) -> _Follows:
    rows = _pad(len(options), parts)
    width = max(_width(each, longest) for each in asked)
    shape = (rows, width)
    made = _Follows(
        np.zeros(rows, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool),
        np.zeros(shape, bool),
    )  # fmt: skip
    for row, ((owner, option), each) in enumerate(zip(options, asked, strict=True)):
        ids = each.options[option]
        skipped = each.skipped[option] if each.skipped else 0
        made.owner_B[row] = owner
        made.tokens_BL[row, : len(ids)] = ids
        made.filled_BL[row, : len(ids)] = True
        made.scored_BL[row, skipped : len(ids)] = True
    return made


def _bucket(length: int, longest: int | None) -> int:
    """One token alone stays so: where every text begins with the same id, nothing is read ahead."""
    if length <= 1:
        return length
    padded = -(-length // BUCKET) * BUCKET
    return padded if longest is None else min(padded, longest)


def _width(asked: Asked, longest: int | None) -> int:
    padded = _power(max(map(len, asked.options), default=1), _SHORTEST)
    return padded if longest is None else min(padded, longest)


def _power(count: int, least: int = 1) -> int:
    return max(least, 1 << (count - 1).bit_length())


def _pad(rows: int, parts: int) -> int:
    """A power of two, or the next count above it that splits over the mesh."""
    return -(-_power(rows) // parts) * parts
