"""A model rewritten, without changing what it computes, for stacks that know fewer variations.

Each function takes (config, params) and gives both again; what comes out is a config and params of
ours, so that any of our functions can show that nothing changed.
"""

import dataclasses

import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.tables.tables import Tree, slots
from gesso.models import build
from gesso.models.bert.config import BERTConfig, Output
from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.settings import Bias
from gesso.models.model import Params
from gesso.models.trees import flat, nest

Model = tuple[GPTConfig, Params]
_QUERIES = ("blocks/attention/q", "blocks/attention/q_bias")
_TURNING = (*_QUERIES, "blocks/attention/k", "blocks/attention/k_bias")


def narrower(config: GPTConfig) -> str:
    """Why local layers cannot be written as global ones, or ""."""
    if "local" not in config.kinds or config.window >= config.positions:
        return ""
    return (
        f"local attention (a window of {config.window}) changes rows of up to"
        f" {config.positions} tokens, and this format has none; set model.positions to"
        f" {config.window}, or export for transformers or ONNX"
    )


def global_attention(config: GPTConfig, params: Tree) -> Model:
    """Local layers as global ones, which they are where the window holds the longest row.

    Raises FolderError where it does not.
    """
    if why := narrower(config):
        raise FolderError(why)
    return dataclasses.replace(config, pattern=("global",), window=0), dict(params)


def scale_by_head_dim(config: GPTConfig, params: Tree) -> Model:
    """q.k divided by sqrt(head dim), and the rest of what it was divided by in the queries."""
    if config.attention_scale == "head_dim":
        return config, dict(params)
    factor_Z = np.ones(config.layers)
    if config.attention_scale in ("none", "layer"):
        factor_Z = factor_Z * config.head_dim**0.5
    if config.attention_scale in ("layer", "head_dim_and_layer"):
        factor_Z = factor_Z / np.arange(1, config.layers + 1)
    changed = flat(params)
    for path in set(_QUERIES) & changed.keys():
        x = np.asarray(changed[path])
        shape = (-1, *[1] * (x.ndim - 1))
        changed[path] = (x * factor_Z.reshape(shape)).astype(x.dtype)
    return dataclasses.replace(config, attention_scale="head_dim"), nest(changed)


def turn_by_halves(config: GPTConfig, params: Tree) -> Model:
    """Rotary pairs i and i + half instead of 2i and 2i + 1: the dims of every head in that order,
    in queries and keys alike, whose products do not change."""
    if config.position_encoding != "rotary" or config.rotation == "half":
        return config, dict(params)
    turning = np.arange(config.rotary_dims)
    order = np.concatenate(
        [turning[::2], turning[1::2], np.arange(config.rotary_dims, config.head_dim)]
    )
    changed = flat(params)
    for path in set(_TURNING) & changed.keys():
        changed[path] = np.ascontiguousarray(np.asarray(changed[path])[..., order])
    return dataclasses.replace(config, rotation="half"), nest(changed)


def with_biases(config: GPTConfig, params: Tree, biases: tuple[Bias, ...]) -> Model:
    """Biases of 0 where the model has none of these."""
    absent = tuple(each for each in biases if each not in config.biases)
    more = dataclasses.replace(config, biases=(*config.biases, *absent))
    changed = flat(params)
    for path, slot in slots(build(more)).items():
        if path not in changed:
            changed[path] = np.zeros(slot.shape, np.float32)
    return more, nest(changed)


def with_own_head(config: GPTConfig, params: Tree) -> Model:
    """The head's table on its own, the same values where it was tied."""
    changed = flat(params)
    changed.setdefault("head_table", changed["embed"])
    return dataclasses.replace(config, head="untied"), nest(changed)


def encoder_alone(
    config: BERTConfig, params: Tree, *, keep: tuple[Output, ...] = ()
) -> tuple[BERTConfig, Params]:
    """The features, and the pooler where there is one to `keep`. RoBERTa's first rows of positions,
    which no token has, are cut off."""
    outputs: tuple[Output, ...] = ("pooler",) if "pooler" in keep and config.pools else ()
    parts = ("embed", "positions", "token_types", "embed_norm", "blocks", *outputs)
    kept = {path: x for path, x in flat(params).items() if path.split("/")[0] in parts}
    kept["positions"] = np.asarray(kept["positions"])[config.first_position :]
    alone = dataclasses.replace(
        config,
        outputs=outputs,
        labels=0,
        head="tied",
        head_dropout=0.0,
        positions=config.positions - config.first_position,
        first_position=0,
    )
    return alone, nest(kept)
