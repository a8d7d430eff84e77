"""Which parameters a run trains: the tree it differentiates, the tree it keeps as it is, and how a
model's parameters are split into the two and joined again.

Only the trained tree reaches the optimizer, the gradient norm and the clipping: what is frozen has
no gradient to compute and no moments to keep, whatever else a step does with gradients.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gesso.models.layers.layer_parts import LayerParts
from gesso.models.model import Params
from gesso.models.trees import flat, nest
from gesso.settings.nearest import did_you_mean

# What families call their stacks of layers; "source" is the cross-attention of an encoder-decoder.
_STACKS = {"blocks", "layers", "source"}


# The nested dict of a model's parameters with their letters in place: {"embed": "VD", ...}.
Letters = dict[str, Any]


class PatternError(ValueError):
    """A pattern over parameter names that matches nothing, or a parameter none of them covers."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The two trees of a run and what they make together. All functions are traceable.

    letters, frozen_letters: of the trained tree and of the frozen one ({} when all is trained).
    begin: (whole parameters, key) -> (trained, frozen), for the first update.
    combine: (trained, frozen, key or None) -> what `Model.merge` takes, in the step, where stacked
        layers may be LayerParts; called after both trees were cast and laid out.
    whole: (trained, frozen) -> the model's parameters, as they are evaluated and exported.
    frozen_saved: "checkpoint": each checkpoint holds the frozen tree too and needs nothing else;
        "elsewhere": it is in the run's source, whose fingerprint the checkpoint has.
    """

    letters: Letters
    frozen_letters: Letters
    begin: Callable[[Params, jax.Array], tuple[Params, Params]]
    combine: Callable[[Params, Params, jax.Array | None], Params]
    whole: Callable[[Params, Params], Params]
    frozen_saved: Literal["checkpoint", "elsewhere"] = "checkpoint"


def everything(letters: Letters) -> Parts:
    """All of a model is trained."""
    return Parts(
        letters=letters,
        frozen_letters={},
        begin=lambda whole, key: (whole, {}),
        combine=lambda params, frozen, key: params,
        whole=lambda params, frozen: params,
    )


def parts_of(
    letters: Letters,
    shapes: Mapping[str, Sequence[int]],
    *,
    trainable: tuple[str, ...] = (),
    first_layer: int = 0,
) -> Parts:
    """The parts of a model that trains what `trainable` names, in layers from `first_layer` up.

    letters: the model's tree of letters. shapes: of its parameters, by name. trainable: patterns
    (fnmatch) over names such as "blocks/attention/q"; "!blocks/*" takes out; () is everything.
    first_layer: layers below it are frozen, in every stack; a negative one counts from the top
    (-1: the last layer of each stack).

    Raises PatternError for a pattern that matches nothing, and where nothing would be trained.
    """
    names = flat(letters)
    chosen = match_trainable(tuple(names), trainable)
    cut = {
        name: _cut(shapes[name][0], first_layer) if is_layers(name, each) else 0
        for name, each in names.items()
        if name in chosen
    }
    trained = {name: names[name] for name in cut if cut[name] < (shapes[name] or (1,))[0]}
    split = {name: cut[name] for name in trained if cut[name]}
    frozen = {name: each for name, each in names.items() if name not in trained or name in split}
    if not trained:
        raise PatternError(
            f"nothing is trained: trainable {list(trainable)} names layers alone, and first_layer"
            f" {first_layer} leaves none of them"
        )
    if not frozen:
        return everything(letters)

    def begin(whole: Params, key: jax.Array) -> tuple[Params, Params]:
        each = flat(whole)
        upper = {
            name: each[name][split[name] :] if name in split else each[name] for name in trained
        }
        lower = {
            name: each[name][: split[name]] if name in split else each[name] for name in frozen
        }
        return nest(upper), nest(lower)

    def combine(params: Params, frozen: Params, key: jax.Array | None) -> Params:
        lower, upper = flat(frozen), flat(params)
        both = {name: LayerParts(lower[name], upper[name]) for name in split}
        return nest(lower | upper | both)

    return Parts(
        letters=nest(trained),
        frozen_letters=nest(frozen),
        begin=begin,
        combine=combine,
        whole=join_trees,
    )


def join_trees(params: Params, frozen: Params) -> Params:
    """The whole parameters of a trained and a frozen tree: what is in both is a stack of layers,
    the lower ones frozen. Arrays of JAX or of numpy; what is in one tree alone is not copied."""
    lower, upper = flat(frozen), flat(params)
    stacks = {}
    for name in lower.keys() & upper.keys():
        numpy = isinstance(upper[name], np.ndarray)
        stacks[name] = (np if numpy else jnp).concatenate([lower[name], upper[name]])
    return nest(lower | upper | stacks)


def match_trainable(names: Sequence[str], trainable: tuple[str, ...]) -> set[str]:
    """The names that patterns choose. Raises PatternError for one that matches none."""
    for pattern in trainable:
        refuse_unused("trainable", pattern, names, pattern.removeprefix("!"))
    wanted = [each for each in trainable if not each.startswith("!")] or ["*"]
    out = [each[1:] for each in trainable if each.startswith("!")]
    chosen = {n for n in names if matches(n, wanted) and not matches(n, out)}
    if not chosen:
        raise PatternError(f"trainable {list(trainable)} leaves no parameter to train")
    return chosen


def is_layers(name: str, letters: str) -> bool:
    """Whether a parameter is of the model's stacked layers (and not, as ELMo's highways are, of a
    stack inside its embeddings)."""
    return letters.startswith("Z") and not _STACKS.isdisjoint(name.split("/"))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (fnmatch) matches a parameter's name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def refuse_unused(setting: str, asked: str, names: Sequence[str], pattern: str = "") -> None:
    """PatternError, with the nearest name, when a pattern matches none of the parameters."""
    if not any(fnmatch.fnmatchcase(name, pattern or asked) for name in names):
        hint = did_you_mean(pattern or asked, names, cutoff=0.4)
        raise PatternError(f"{setting} {asked!r} matches no parameter{hint}")


def _cut(layers: int, first_layer: int) -> int:
    """How many of the lowest layers are frozen."""
    return min(first_layer if first_layer >= 0 else max(layers + first_layer, 0), layers)
