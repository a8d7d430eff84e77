"""The registry of families: where each has its settings, its equations and its counts. No JAX;
nothing is imported before it is asked for.

A family is entered here and nowhere else; another package adds its own by an entry point. What
differs between families beside their equations, its config declares (models/facts.py).
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from gesso.models.facts import Facts
from gesso.settings.nearest import did_you_mean

if TYPE_CHECKING:
    from gesso.models.network import Network


class Counts(Protocol):
    """A family's module of counts (models/count.py has the convention)."""

    def parameters(self, config: Facts) -> dict[str, int]: ...
    def flops_per_token(self, config: Facts, length: int) -> float: ...


class LayerCounts(Counts, Protocol):
    """Counts of a family whose weights are all met by every token: models/trained_count.py says
    what a part of them costs."""

    def products(self, config: Facts) -> Mapping[str, float]: ...
    def attention_flops(self, config: Facts, length: int) -> tuple[float, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Family:
    """config, module: "dotted.module:Class" of the settings (a dataclass over Facts) and of the
    equations (a Network). count: the dotted module of its Counts, or of its LayerCounts where
    counts_layers."""

    config: str
    module: str
    count: str
    counts_layers: bool = False

    def config_class(self) -> type[Facts]:
        return _resolve(self.config)

    def network(self) -> "type[Network]":
        """The NNX class of the equations. Imports JAX."""
        return _resolve(self.module)

    def counts(self) -> Counts:
        return cast(Counts, importlib.import_module(self.count))

    def layer_counts(self) -> LayerCounts | None:
        """None of a family whose weights are met by different numbers of tokens."""
        return cast(LayerCounts, self.counts()) if self.counts_layers else None


def _own(name: str, prefix: str, *, counts_layers: bool = False) -> Family:
    home = f"gesso.models.{name}"
    return Family(
        config=f"{home}.config:{prefix}Config",
        module=f"{home}.{name}:{prefix}",
        count=f"{home}.count",
        counts_layers=counts_layers,
    )


FAMILIES: dict[str, Family] = {
    "gpt": _own("gpt", "GPT", counts_layers=True),
    "bert": _own("bert", "BERT", counts_layers=True),
    "elmo": _own("elmo", "ELMo"),
    "seq2seq": _own("seq2seq", "Seq2Seq"),
    "encoder_decoder": _own("encoder_decoder", "EncoderDecoder"),
}


def family(name: str) -> Family:
    """Ours, or another package's by its entry point (group gesso.families: a `Family`).

    Raises ValueError for a name that neither has, and for an entry point that cannot be used."""
    return FAMILIES[name] if name in FAMILIES else _another(name)


def _another(name: str) -> Family:
    from gesso.settings import entry_points  # a tenth of a second: only for a name that is not ours

    entry = entry_points.find(entry_points.FAMILIES, name)
    if entry is None:
        hint = did_you_mean(name, FAMILIES, otherwise=f"there are {', '.join(FAMILIES)}")
        raise ValueError(f"model.family {name!r} is not known{hint}")
    found = entry_points.load(entry)
    if not isinstance(found, Family):
        raise entry_points.broken_error(
            entry, TypeError("it is not a gesso.models.families.Family")
        )
    return found


def _resolve(place: str) -> type:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
