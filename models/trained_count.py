"""FLOPs of training a part of a model: what is frozen has no gradient, and below the lowest layer
with a trained parameter nothing is differentiated. No JAX.

The convention is models/count.py's. Of its 6 FLOPs per weight and token, 2 are the forward pass, 2
the gradient of what the weight reads, 2 the weight's own. The second are counted of every layer
from the lowest that has a trained parameter up, that layer's own included (in a loop over layers
its products are differentiated as all others'), and the third of trained weights alone; of the
products inside attention 4 of 12 are the forward pass.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence

from gesso.models.adapters.config import AdapterConfig
from gesso.models.config import ModelConfig
from gesso.models.count import flops_per_token
from gesso.models.families import family

Shapes = Mapping[str, Sequence[int]]
# Parameters that are looked up or added below the first layer.
_BELOW = ("embed", "positions", "token_types", "embed_norm/scale", "embed_norm/bias")
_STACK = "blocks/"
_ADAPTER = "adapter/"


def trained_flops_per_token(
    config: ModelConfig, length: int, *, trained: Shapes, frozen: Shapes
) -> float | None:
    """Training FLOPs per token of rows of `length` tokens; None of a family whose weights are met
    by different numbers of tokens (encoder-decoders, ELMo), where something is frozen.

    trained, frozen: shapes of the two trees of a run by name (pretrain/optimizer/trained.py); of
    layers that are cut in two, the lower ones are in the frozen one. An adapter's arrays are in the
    trained one, under "adapter/"; of these LoRA's are products, 6 FLOPs per number and token.
    """
    if not frozen:
        return flops_per_token(config, length)
    counts = family(config.family).layer_counts()
    if counts is None:
        return None
    met, attention = counts.products(config), counts.attention_flops(config, length)
    layers = len(attention)
    lowest = min(_layer(name, trained, layers) for name in trained)
    total = sum(
        each if layer >= lowest else each / 3  # 4 of 12
        for layer, each in enumerate(attention)
    )
    for name, share in met.items():
        here = (frozen.get(name, (0,)), trained.get(name, (0,)))
        counts = [math.prod(shape) for shape in here]
        weights = sum(counts)
        if name.startswith(_STACK):
            reached = weights * (layers - max(lowest, 0)) // layers
        else:
            # Nothing is behind a head alone that a gradient would go to.
            reached = weights if set(trained) - {name} or name in _BELOW else 0
        total += share * (2 * weights + 2 * reached + 2 * counts[1])
    for name, shape in trained.items():
        base, _, last = name.removeprefix(_ADAPTER).rpartition("/")
        if name.startswith(_ADAPTER) and last in ("a", "b") and (base, last) != ("embed", "a"):
            total += 6 * math.prod(shape) * met.get(base, 1.0)
    return total


def _layer(name: str, trained: Shapes, layers: int) -> int:
    """The lowest layer that a trained parameter is of: -1 below all, `layers` above."""
    if name in _BELOW:
        return -1
    if name.startswith(_ADAPTER):
        return 0
    return layers - trained[name][0] if name.startswith(_STACK) else layers


def adapter_shapes(config: ModelConfig, adapter: AdapterConfig) -> tuple[Shapes, Shapes] | None:
    """(trained, frozen) of a run that trains an adapter alone, as far as FLOPs depend on them;
    None of a family that is not counted."""
    counts = family(config.family).layer_counts()
    if counts is None:
        return None
    s = config.sizes
    layers, inner, wide = s["Z"], (s["N"], s["H"]), (s["F"],)
    embed, keys, words = (s["D"],), (s.get("K", s["N"]), s["H"]), s.get("E", s["D"])
    made = {
        "out": (inner, embed),
        "down": (wide, embed),
        "up": (embed, wide),
        "gate": (embed, wide),
    }
    made |= {"q": (embed, inner), "k": (embed, keys), "v": (embed, keys)}
    around = {"project_in": (words, s["D"]), "project_out": (s["D"], words)}
    frozen, trained = {}, {}
    for name in counts.products(config):
        if not name.startswith(_STACK):
            square = "mlm/dense" in name
            frozen[name] = around.get(name, (s["D"] if square else s["V"], words))
            continue
        reads, makes = made[name.rpartition("/")[2]]
        frozen[name] = (layers, *reads, *makes)
        patterns = adapter.targets or ("*attention/q", "*attention/v")
        if adapter.kind == "lora" and any(fnmatch.fnmatchcase(name, p) for p in patterns):
            trained[f"{_ADAPTER}{name}/a"] = (layers, *reads, adapter.rank)
            trained[f"{_ADAPTER}{name}/b"] = (layers, adapter.rank, *makes)
    return trained or {f"{_ADAPTER}{adapter.kind}": ()}, frozen
