"""How likely given continuations are: what comes before them is read once for all of them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from evaluation.decoding import begin, replicated, take_rows
from evaluation.generate import BUCKET
from models.model import Model, build

# Options are padded to a power of two from this on, so that few lengths are compiled.
_SHORTEST = 8


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
    model: Model, params: Any, asked: Sequence[Asked], *, rows: int = 32, compute: str = "float32"
) -> list[list[Likelihood]]:
    """Of every option of everything asked, in its order.

    What is given is encoded, or read into the decoding cache, once; its keys and values are then
    taken by each of its options, of which `rows` at a time are scored. rows and the order of what
    is asked change no figure but for rounding. compute: the dtype to multiply in. Raises ValueError
    for something asked without given ids or with an empty option, and where given, option and
    source exceed the model's positions.
    """
    _check(asked, model.config.longest)
    params = jax.tree.map(lambda each: jnp.asarray(each, compute), params)
    run = _compiled(model.config, replicated(params))
    found: list[list[Likelihood]] = [[Likelihood(0.0, True)] * len(each.options) for each in asked]
    for owners, options in _portions(asked, rows, model.config.longest):
        batch = _given([asked[owner] for owner in owners], model.config.longest)
        follows = _options([asked[owners[at]] for at, _ in options], options, _power(rows))
        nats, greedy = jax.device_get(run(params, batch, follows))
        for row, (at, option) in enumerate(options):
            found[owners[at]][option] = Likelihood(float(nats[row]), bool(greedy[row]))
    return found


class _Follows(NamedTuple):
    """Options as rows: owner i32[R], their place among what is given; tokens i32[R, O]; scored
    bool[R, O]; filled bool[R, O]."""

    owner_R: np.ndarray
    tokens_RO: np.ndarray
    scored_RO: np.ndarray
    filled_RO: np.ndarray


@functools.lru_cache(maxsize=8)
def _compiled(config: Any, everywhere: NamedSharding | None) -> Any:
    """(params, batch, follows) -> (nats f32[R], greedy bool[R])."""
    model = build(config)

    def run(params: Any, batch: Any, follows: Any) -> tuple[jax.Array, jax.Array]:
        owner_R, tokens_RO, scored_RO, filled_RO = follows
        width = tokens_RO.shape[1]
        cache, token_B, position_B = begin(model, params, batch, width)
        cache = take_rows(cache, owner_R, source="take")
        # The last given token predicts the first of the option, and so on.
        read_RO = jnp.concatenate([token_B[owner_R][:, None], tokens_RO[:, :-1]], axis=1)
        positions_RO = position_B[owner_R][:, None] + jnp.arange(width)
        rows = {
            "tokens": read_RO,
            "segments": filled_RO.astype(jnp.int32),
            # Padding stands anywhere, but inside the table.
            "positions": jnp.where(filled_RO, positions_RO, 0),
        }
        logits_ROV, _ = model.decode(params, cache, rows)
        logits_ROV = logits_ROV.astype(jnp.float32)
        at_token_RO = jnp.take_along_axis(logits_ROV, tokens_RO[..., None], -1)[..., 0]
        nats_RO = at_token_RO - jax.nn.logsumexp(logits_ROV, axis=-1)
        likeliest_RO = jnp.argmax(logits_ROV, axis=-1) == tokens_RO
        nats_R = jnp.where(scored_RO, nats_RO, 0).sum(-1)
        return nats_R, (likeliest_RO | ~scored_RO).all(-1)

    return jax.jit(run, out_shardings=everywhere)


def _check(asked: Sequence[Asked], longest: int | None) -> None:
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
    asked: Sequence[Asked], rows: int, longest: int | None
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """(places in `asked`, [(index into those, option)]): at most `rows` options of about the same
    lengths; what has more options than that is given again."""
    sizes = [
        (
            _bucket(len(each.source), longest),
            _bucket(len(each.given), longest),
            _power(max(map(len, each.options), default=1), _SHORTEST),
        )
        for each in asked
    ]
    owners: list[int] = []
    options: list[tuple[int, int]] = []
    for place in sorted(range(len(asked)), key=lambda place: sizes[place]):
        if owners and sizes[place] != sizes[owners[0]]:
            yield owners, options
            owners, options = [], []
        for option in range(len(asked[place].options)):
            if len(options) == rows:
                yield owners, options
                owners, options = [], []
            if not owners or owners[-1] != place:
                owners.append(place)
            options.append((len(owners) - 1, option))
    if options:
        yield owners, options


def _given(asked: Sequence[Asked], longest: int | None) -> dict[str, np.ndarray]:
    """What evaluation.decoding.begin reads; rows that are missing to a power of two are copies of
    the first, and belong to no option."""
    asked = [*asked, *[asked[0]] * (_power(len(asked)) - len(asked))]
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
    asked: Sequence[Asked], options: Sequence[tuple[int, int]], most_rows: int
) -> _Follows:
    rows = min(_power(len(options)), most_rows)
    width = _power(max(len(o) for each in asked for o in each.options), _SHORTEST)
    shape = (rows, width)
    made = _Follows(
        np.zeros(rows, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool),
        np.zeros(shape, bool),
    )  # fmt: skip
    for row, ((owner, option), each) in enumerate(zip(options, asked, strict=True)):
        ids = each.options[option]
        skipped = each.skipped[option] if each.skipped else 0
        made.owner_R[row] = owner
        made.tokens_RO[row, : len(ids)] = ids
        made.filled_RO[row, : len(ids)] = True
        made.scored_RO[row, skipped : len(ids)] = True
    return made


def _bucket(length: int, longest: int | None) -> int:
    """One token alone stays so: where every text begins with the same id, nothing is read ahead."""
    if length <= 1:
        return length
    padded = -(-length // BUCKET) * BUCKET
    return padded if longest is None else min(padded, longest)


def _power(count: int, least: int = 1) -> int:
    return max(least, 1 << (count - 1).bit_length())
