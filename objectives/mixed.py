"""Several objectives in one run: each row of the data belongs to one of them, for ever."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from gesso.data.order.counter_hash import draw, fraction
from gesso.data.order.permutation import make_key
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective, Take, Term
from gesso.objectives.config import MixedConfig
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.kinds import build
from gesso.objectives.two_sides import TwoSided, make_room

Batch = dict[str, np.ndarray]


class Mixed(Objective):
    """The parts of a MixedConfig, on one batch and one forward pass.

    A row's part is a hash of its number, with the parts' shares for probabilities: the same on any
    number of hosts and devices, after any restart. The batch has the parts' common leaves; the
    weights of part p are "p_weight" (its first term's) and "p_NAME_weight", 0 in other parts' rows.
    Term t of part p is "p_t", a mean over p's own rows, with the part's coefficient times its own;
    a batch in which p has no row has 0 for it. Metrics count rows and places of every weight.
    """

    companions = False
    overlap: Literal[0, 1] = 0

    def __init__(
        self,
        config: MixedConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
    ):
        """Raises ValueError for a part that cannot be, naming it."""
        self.config = config
        context = {"tokenizer": tokenizer, "model": model}
        # Together they need room for what is longest of any, so all are made twice.
        alone = {
            name: _build_part(name, part.objective, context) for name, part in config.parts.items()
        }
        room = make_room(part.costs for part in alone.values())
        self.parts: dict[str, TwoSided] = {
            name: type(part)(part.config, **context, room=room) for name, part in alone.items()
        }
        self._leaves = {name: _weight_names(name, part) for name, part in self.parts.items()}
        first = next(iter(self.parts.values()))
        self.letters, self.overhead = first.letters, room.overhead
        self.terms: Mapping[str, Term] = {
            f"{name}_{term}": Term(
                weight=self._leaves[name][each.weight],
                coefficient=config.parts[name].coefficient * each.coefficient,
                targets=each.targets,
            )
            for name, part in self.parts.items()
            for term, each in part.terms.items()
        }
        shares = np.array([part.share for part in config.parts.values()], np.float64)
        self._bounds = np.cumsum(shares)[:-1] / shares.sum()
        self._key = make_key("mixed", config.seed)[0]

    def part_of(self, row_numbers: np.ndarray) -> np.ndarray:
        """Which part (its index in the config) each row of the global order belongs to, i64[n]."""
        drawn = fraction(draw(self._key, row_numbers))
        return np.searchsorted(self._bounds, drawn, side="right")

    def row_length(self, length: int) -> int:
        """As TwoSided's. Raises ValueError where a part's leaves are not the others'."""
        lengths = {name: part.row_length(length) for name, part in self.parts.items()}
        row_length = next(iter(lengths.values()))
        assert set(lengths.values()) == {row_length}, "the parts share their room"
        self._empty(row_length)
        return row_length

    def check(self, take: Take) -> None:
        """Raises ValueError where the data has nothing for some part."""
        for part in self.parts.values():
            part.check(take)

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> Batch:
        """Rows -> the common leaves, and every part's weights."""
        n, row_length = rows["tokens"].shape
        batch = {
            name: np.zeros((n, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in self._empty(row_length).items()
        }
        part_of = self.part_of(rows["row"])
        for index, (name, part) in enumerate(self.parts.items()):
            mine = np.flatnonzero(part_of == index)
            if len(mine):
                made = part.host_batch({key: leaf[mine] for key, leaf in rows.items()})
                for leaf, values in _rename(made, self._leaves[name]).items():
                    batch[leaf][mine] = values
        return batch

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{term: f32[B, L]} of every row, also of those that the term's weight leaves out."""
        first = next(iter(self.parts.values()))
        scored = first.score(module, batch, key, chunk=self.config.chunk_tokens)
        values = {}
        for name, part in self.parts.items():
            own = {leaf: batch[ours] for leaf, ours in self._leaves[name].items()}
            values |= {f"{name}_{t}": v for t, v in part.values(scored, {**batch, **own}).items()}
        return values

    def _empty(self, row_length: int) -> Batch:
        """The batch of a row of padding. Raises ValueError naming a leaf that a part lacks."""
        row = {
            name: np.zeros((1, row_length), np.int32)
            for name in ("tokens", "segments", "positions")
        } | {"component": np.zeros(1, np.int32), "row": np.zeros(1, np.int64)}
        batch: Batch = {}
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, part in self.parts.items():
            made = part.host_batch(row)
            shapes[name] = {
                leaf: value.shape for leaf, value in made.items() if leaf not in self._leaves[name]
            }
            batch |= _rename(made, self._leaves[name])
        (one, expected), *others = shapes.items()
        for other, found in others:
            for leaf in sorted(expected.keys() | found.keys()):
                if expected.get(leaf) != found.get(leaf):
                    raise ValueError(
                        f"parts {one} and {other} of the mix differ in the batch's {leaf!r}:"
                        f" {_describe(expected.get(leaf))} and {_describe(found.get(leaf))};"
                        " parts share one batch and one forward pass"
                    )
        return batch


def _build_part(name: str, config: Any, context: dict[str, Any]) -> TwoSided:
    try:
        made = build(config, **context)
    except ValueError as error:
        raise ValueError(f"objective.parts.{name}: {error}") from None
    assert isinstance(made, TwoSided), "MixedPart.objective names no other kinds"
    return made


def _weight_names(part: str, objective: TwoSided) -> dict[str, str]:
    """{the part's own name of a weight leaf: its name in the mixed batch}."""
    first, *others = objective.weight_leaves
    return {first: f"{part}_weight"} | {leaf: f"{part}_{leaf}" for leaf in others}


def _rename(batch: Mapping[str, np.ndarray], names: Mapping[str, str]) -> Batch:
    return {names.get(leaf, leaf): value for leaf, value in batch.items()}


def _describe(shape: tuple[int, ...] | None) -> str:
    return "no such leaf" if shape is None else f"{list(shape[1:])} a row"
