"""Adapters: their arrays, how these are drawn and laid out, and the model they make of a base.

A tree of an adapter names what it adapts: {"blocks": {"attention": {"q": {"a", "b"}}}} for LoRA.
Bound to a base it is a tree that `Model.merge` takes: weights that are Operators, and hooks beside
the model's own parameters. Nothing as large as a weight is made by binding.
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.virtual import draw_virtual, virtual, virtual_letters
from gesso.models.facts import Facts
from gesso.models.layers.hooks import Focus
from gesso.models.layers.operators import Injected, LowRank, Scaled, inner_outer
from gesso.models.trees import Leaf, Leaves, Params, flat, nest
from gesso.settings.nearest import nearest

_DEFAULT = {
    "lora": ("*attention/q", "*attention/v"),
    "ia3": ("*attention/k", "*attention/v", "*mlp/down"),
}
_PRODUCTS = ("ZDNH", "ZDKH", "ZNHD", "ZDF", "ZFD")
_TABLES = ("embed", "source_embed", "encoder/embed", "decoder/embed")


class AdapterError(ValueError):
    """An adapter that this model cannot have."""


def targets(config: AdapterConfig, letters: Mapping[str, Leaf]) -> dict[str, str]:
    """{name: letters} of the parameters of a model that LoRA or (IA)3 adapts, in the model's order.

    letters: the model's tree. Raises AdapterError for a pattern that names nothing it can.
    """
    every = flat(letters)
    able = {name: each for name, each in every.items() if _able(config, name, each)}
    patterns = config.targets or _DEFAULT[config.kind]
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in able):
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for name in every):
            raise AdapterError(
                f"adapter.targets {pattern!r} names what {config.kind} cannot adapt; it can:"
                f" {_some(list(able))}"
            )
        last = {name.rpartition("/")[2]: name for name in able}
        guess = pattern.strip("*").rpartition("/")[2]
        near = nearest(guess, last, cutoff=0.4) or nearest(pattern, able, cutoff=0.4)
        hint = f"did you mean {last.get(near[0], near[0])!r}?" if near else f"it can: {_some(able)}"
        raise AdapterError(f"adapter.targets {pattern!r} matches no parameter; {hint}")
    return {
        name: each
        for name, each in able.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def init(
    config: AdapterConfig, key: jax.Array, base: Mapping[str, Leaf], letters: Params
) -> Params:
    """The adapter's float32 arrays before training. base: the model's parameters, or their
    jax.ShapeDtypeStructs (a prompt that is not reparametrized begins as rows of the table of words,
    and needs these). letters: the model's.

    LoRA as peft draws it: A uniform within 1 / sqrt(inputs) (Kaiming with a = sqrt 5), B zero; of a
    table A zero and B normal. (IA)3 begins at 1. Both change nothing at first.
    """
    arrays = flat(base)
    if config.kind in ("lora", "ia3"):
        drawn = {}
        for number, (name, each) in enumerate(targets(config, letters).items()):
            own = jax.random.fold_in(key, number)
            sizes = dict(zip(each, arrays[name].shape, strict=True)) | {"I": config.rank}
            drawn |= _draw(config, name, each, sizes, own)
        return nest(drawn)
    if config.kind == "focus":
        shape = [*_focus_shape(arrays, letters)]
        # Xavier's uniform, as the published code draws the shift; the scale begins at 1.
        limit = math.sqrt(6 / (shape[1] + shape[2]))
        shift = jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        return {"scale": jnp.ones(shape), "shift": shift}
    return draw_virtual(config, key, arrays, flat(letters))


def letters_of(config: AdapterConfig, base_letters: Params) -> Params:
    """The adapter's tree of letters: A lies as what its weight reads, B as what it makes, the rank
    on every device."""
    if config.kind in ("lora", "ia3"):
        found = {}
        for name, each in targets(config, base_letters).items():
            layers, (inner, outer) = "Z" if each.startswith("Z") else "", inner_outer(each)
            if config.kind == "ia3":
                found[f"{name}/by"] = layers + (inner if side(name) == "in" else outer)
            else:
                found[f"{name}/a"], found[f"{name}/b"] = f"{layers}{inner}I", f"{layers}I{outer}"
        return nest(found)
    if config.kind == "focus":
        return {"scale": "ZQD", "shift": "ZQD"}
    return virtual_letters(config)


def bind(
    base: Params, adapter: Params, config: AdapterConfig, key: jax.Array | None = None
) -> Params:
    """What `Model.merge` takes: the base's parameters with the adapter around them.

    Traceable; both trees in the dtype they are used in. key: of a LoRA's dropout, None = none.
    """
    params, parts = flat(base), flat(adapter)
    if config.kind in ("lora", "ia3"):
        for number, name in enumerate(adapted_names(adapter)):
            own = None if key is None else jax.random.fold_in(key, number)
            params |= _bind(config, name, params, parts, own)
        return nest(params)
    if config.kind == "focus":
        hook = Focus(adapter["scale"], adapter["shift"], *config.marks)
        return {**base, "hooks": {"focus": hook}}
    if config.kind == "p_tuning":
        tokens = virtual(config, adapter)
        for name in _text_tables(params):
            params[name] = Injected(params[name], tokens, config.placeholder)
        return nest(params)
    return {**base, "hooks": {config.kind: virtual(config, adapter)}}


def side(name: str) -> str:
    """Which side of a product (IA)3 multiplies: what is made ("out": keys, values), bias and all,
    or what is read ("in": the mlp's activations)."""
    return "in" if name.rpartition("/")[2] in ("out", "down") else "out"


def adapted_names(adapter: Params) -> list[str]:
    """The names of the parameters that an adapter of LoRA or (IA)3 is for, in order."""
    return list(dict.fromkeys(name.rpartition("/")[0] for name in flat(adapter)))


def adapter_problems(config: AdapterConfig, model: Facts, letters: Params) -> list[str]:
    """What is wrong with an adapter for a model; its config and its tree of letters."""
    if config.kind == "none" or (found := [*config.problems(), *config.misfits(model)]):
        return config.problems() if config.kind == "none" else found
    if config.kind not in ("lora", "ia3"):
        return []
    try:
        chosen = targets(config, letters)
    except AdapterError as error:
        return [str(error)]
    tables = [name for name in chosen if name in _TABLES]
    untied = {"head_table", "mlm/table", "decoder/head_table", "decoder/mlm/table"}
    if tables and not untied & flat(letters).keys():
        return [
            f"adapter.targets name {tables[0]!r}, which is the head's table too, and LoRA adapts"
            " what is looked up alone; untie them (--model.head untied: the head begins as the"
            " table), or leave it out"
        ]
    return []


def _able(config: AdapterConfig, name: str, letters: str) -> bool:
    return letters in _PRODUCTS or (config.kind == "lora" and name in _TABLES)


def _draw(
    config: AdapterConfig, name: str, letters: str, sizes: Mapping[str, int], key: jax.Array
) -> dict[str, jax.Array]:
    spelled = flat(letters_of(_only(config, name), nest({name: letters})))
    shapes = {leaf: [sizes[each] for each in one] for leaf, one in spelled.items()}
    if config.kind == "ia3":
        return {leaf: jnp.ones(shape) for leaf, shape in shapes.items()}
    a, b = shapes[f"{name}/a"], shapes[f"{name}/b"]
    if name in _TABLES:
        return {f"{name}/a": jnp.zeros(a), f"{name}/b": jax.random.normal(key, b)}
    limit = math.prod(sizes[each] for each in inner_outer(letters)[0]) ** -0.5
    drawn = jax.random.uniform(key, a, minval=-limit, maxval=limit)
    return {f"{name}/a": drawn, f"{name}/b": jnp.zeros(b)}


def _only(config: AdapterConfig, name: str) -> AdapterConfig:
    return AdapterConfig(kind=config.kind, targets=(name,))


def _bind(
    config: AdapterConfig,
    name: str,
    params: Mapping[str, Leaf],
    parts: Mapping[str, Leaf],
    key: jax.Array | None,
) -> Leaves:
    base = params[name]
    if config.kind == "lora":
        keys = None
        if key is not None and config.dropout and name not in _TABLES:
            keys = jax.random.split(key, base.shape[0])
        a, b = parts[f"{name}/a"], parts[f"{name}/b"]
        return {name: LowRank(base, a, b, keys, config.scale, config.dropout)}
    by = parts[f"{name}/by"]
    bound: Leaves = {name: Scaled(base, by, side(name))}
    if side(name) == "out" and f"{name}_bias" in params:
        bound[f"{name}_bias"] = params[f"{name}_bias"] * by
    return bound


def _text_tables(params: Mapping[str, Leaf]) -> list[str]:
    """The tables that a model reads its text by; of an encoder-decoder its source."""
    for name in ("source_embed", "encoder/embed", "embed"):
        if name in params:
            return [name]
    raise AdapterError("this model has no table of words")


def _focus_shape(arrays: Mapping[str, Leaf], letters: Params) -> tuple[int, int, int]:
    """Encoder layers, classes, embed."""
    for name, each in flat(letters).items():
        if each == "ZDF" and not name.startswith("decoder/"):
            return arrays[name].shape[0], 2, arrays[name].shape[1]
    raise AdapterError("this model has no encoder layers to focus")


def _some(names: Iterable[str]) -> str:
    each = list(names)
    return ", ".join(each[:6]) + (" ..." if len(each) > 6 else "")
