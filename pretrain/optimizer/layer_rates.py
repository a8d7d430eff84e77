"""Learning rates by depth: discriminative fine-tuning and layer-wise decay."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax

from gesso.models.model import Params
from gesso.models.trees import flat, nest
from gesso.pretrain.optimizer.trained import Letters, is_layers

# Parts of names that lie below the first layer; what is neither that nor a layer lies behind the
# last one.
_BELOW = {
    "embed",
    "positions",
    "token_types",
    "embed_norm",
    "source_embed",
    "characters",
    "relative_bias",
}


def layer_scales(decay: float, letters: Letters, whole: Mapping[str, Sequence[int]]) -> Params:
    """The tree of `letters` with multiples of the learning rate: a number, or of layers an array
    [n] for the n uppermost of them.

    letters: of the trained parameters. whole: the shapes of all parameters by name. What is behind
    the layers takes 1, the last layer `decay`, layer l of Z (from 0) decay^(Z - l), and what is
    below them decay^(Z + 1): the groups of ULMFiT (https://arxiv.org/abs/1801.06146, section 3.2)
    and of BEiT's layer-wise decay (https://arxiv.org/abs/2106.08254). The sides of an
    encoder-decoder count their own layers.
    """
    return nest({name: scale(decay, name, each, whole) for name, each in flat(letters).items()})


def scale(
    decay: float, name: str, letters: str, whole: Mapping[str, Sequence[int]]
) -> float | np.ndarray:
    """The multiple of one parameter's learning rate, or of its Z layers [Z]."""
    if is_layers(name, letters):
        count = whole[name][0]
        return decay ** (count - np.arange(count, dtype=np.float64))
    if _BELOW.isdisjoint(name.split("/")):
        return 1.0
    return decay ** (_layers_above(name, whole) + 1)


def scale_updates(updates: optax.Updates, scales: Params) -> optax.Updates:
    """Updates times their scales; of layers cut in two, the uppermost scales count."""

    def one(update: jax.Array, each: float | np.ndarray) -> jax.Array:
        if not isinstance(each, np.ndarray):
            return update * each
        factors = np.asarray(each[-update.shape[0] :], np.float32)
        return update * factors.reshape(-1, *[1] * (update.ndim - 1)).astype(update.dtype)

    return jax.tree.map(one, updates, scales)


def _layers_above(name: str, whole: Mapping[str, Sequence[int]]) -> int:
    """The layers above an embedding: of its side where it has one, else the tallest stack."""
    side = name.split("/")[0]
    stacks = {
        each: shape[0]
        for each, shape in whole.items()
        if not {"blocks", "layers"}.isdisjoint(each.split("/"))
    }
    own = [
        count
        for each, count in stacks.items()
        if side in ("encoder", "decoder") and each.startswith(f"{side}/")
    ]
    return max(own or stacks.values(), default=0)
