"""A run that trains an adapter: its two trees, and its model put together from a checkpoint.

The trained tree is {"adapter": ...} and whatever else `trainable` names (a fresh head); all other
parameters are frozen, and stay in the run that the adapter is trained over.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gesso.models.adapters.adapters import adapter_problems, bind, init, letters_of
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import merge
from gesso.models.model import Model, Params
from gesso.models.trees import flat, nest
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.fingerprint import fingerprints
from gesso.pretrain.checkpoints.manifest import Info
from gesso.pretrain.config import StartConfig
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.optimizer.trained import Parts, match_trainable
from gesso.pretrain.origins.parameters import match
from gesso.pretrain.origins.resize import resize
from gesso.pretrain.origins.sources import open_source


def adapter_parts(config: AdapterConfig, model: Model, *, trainable: tuple[str, ...] = ()) -> Parts:
    """What a run with this adapter trains and freezes. trainable: patterns over the model's own
    parameters that are trained whole beside it; () for none.

    Raises ExperimentError for an adapter the model cannot have, PatternError for a pattern that
    matches nothing.
    """
    if problems := adapter_problems(config, model.config, model.letters):
        raise ExperimentError("; ".join(problems))
    names = flat(model.letters)
    beside = match_trainable(tuple(names), trainable) if trainable else set()
    frozen = {name: each for name, each in names.items() if name not in beside}

    def begin(whole: Params, key: jax.Array) -> tuple[Params, Params]:
        each = flat(whole)
        adapter = init(config, key, whole, model.letters)
        own = nest({name: each[name] for name in names if name in beside})
        return {"adapter": adapter, **own}, nest({name: each[name] for name in frozen})

    def combine(params: Params, frozen: Params, key: jax.Array | None = None) -> Params:
        return bind(_base(params, frozen), params["adapter"], config, key)

    return Parts(
        letters={
            "adapter": letters_of(config, model.letters),
            **nest({name: names[name] for name in names if name in beside}),
        },
        frozen_letters=nest(frozen),
        begin=begin,
        combine=combine,
        whole=combine,
        frozen_saved="elsewhere",
    )


def adapter_shapes(config: AdapterConfig, model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's arrays, named as in the trained tree ("adapter/...")."""

    def draw(key: jax.Array) -> Params:
        return init(config, key, model.init(key), model.letters)

    made = flat({"adapter": jax.eval_shape(draw, jax.random.key(0))})
    return {name: x.shape for name, x in made.items()}


def digest(frozen: Params) -> str:
    """One fingerprint (hex) of a tree of frozen parameters."""
    each = json.dumps(fingerprints(frozen), sort_keys=True)
    return hashlib.sha256(each.encode()).hexdigest()


def with_adapter(
    experiment: Experiment,
    model: Model,
    trained: Params,
    info: Info,
    *,
    base: str = "",
) -> Params:
    """The model's parameters, numpy, with the adapter of a checkpoint: merged where it is a change
    of weights, else with its hooks beside them (`Model.letters_of` spells them).

    trained, info: of the checkpoint. base: where the run is that it was trained over, if it was
    moved. Raises ExperimentError where that is gone, or is another one.
    """
    whole = whole_base(experiment, model, trained, info, base=base)
    config, adapter = experiment.adapter, trained["adapter"]
    if config.kind in ("lora", "ia3"):
        return merge(whole, adapter, config, model.letters).params
    bound = bind(jax.tree.map(jnp.asarray, whole), jax.tree.map(jnp.asarray, adapter), config)
    if "prompt" in bound.get("hooks", {}):
        # What the virtual tokens are in every layer does not change: computed here once.
        bound["hooks"] = {"prefix": jax.jit(lambda params: model.merge(params).prefix())(bound)}
    return jax.tree.map(np.asarray, bound)


def whole_base(
    experiment: Experiment,
    model: Model,
    trained: Params,
    info: Info,
    *,
    base: str = "",
) -> Params:
    """All the model's own parameters under an adapter, as it was trained over them: the frozen ones
    from their run, those trained beside it from the checkpoint."""
    if "base" not in info:
        raise ExperimentError("this checkpoint does not say which parameters it was trained over")
    start = StartConfig(**info["base"]["start"])
    if base:
        start = dataclasses.replace(start, source=base)
    own = {name: each for name, each in trained.items() if name != "adapter"}
    names = [name for name in flat(model.letters) if name not in flat(own)]
    frozen = nest(_load(experiment, model, start, names))
    if digest(frozen) != info["base"]["fingerprint"]:
        raise ExperimentError(
            f"{start.source or start.encoder} does not hold the parameters that this adapter was"
            " trained over (their fingerprints differ); name the checkpoint it began with"
            " (RUN/checkpoints/STEP)"
        )
    return _base(own, frozen)


def _base(params: Params, frozen: Params) -> Params:
    own = flat({name: each for name, each in params.items() if name != "adapter"})
    return nest(flat(frozen) | own)


def _load(
    experiment: Experiment, model: Model, start: StartConfig, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Parameters as a run that starts so has them at first, numpy, in its dtype."""
    named = {"": start.source, "encoder": start.encoder, "decoder": start.decoder}
    sources = {side: open_source(each, setting="the base") for side, each in named.items() if each}
    letters = flat(model.letters)
    shapes = {n: x.shape for n, x in flat(jax.eval_shape(model.init, jax.random.key(0))).items()}
    found = match(start, sources, letters, shapes)
    made: dict[str, np.ndarray] = {}
    for origin in found.origins:
        if origin.name not in names or not origin.taken:
            continue
        source = sources[origin.side]
        pieces = source.pieces[origin.taken]
        asked = {
            each.name: np.empty(each.leaf.shape, jnp.dtype(each.leaf.dtype)) for each in pieces
        }
        arrays = flat(array_files.load(source.folder, nest(asked)))
        whole = np.concatenate([arrays[each.name] for each in pieces])
        if origin.kind == "resized":
            known = source.tokenizer_of_run().vocab_size
            whole = resize(jnp.asarray(whole), origin.shape, letters[origin.name], known)
        made[origin.name] = np.asarray(whole)
    if fresh := [name for name in names if name not in made]:
        drawn = flat(jax.jit(model.init)(jax.random.key(experiment.seed)))
        made |= {name: np.asarray(drawn[name]) for name in fresh}
    dtype = jnp.dtype(experiment.precision.params)
    return {name: made[name].astype(dtype) for name in names}
