"""The state before the first update: from scratch, with other runs' parameters, or imported."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from gesso.models.model import Params
from gesso.models.trees import flat, nest
from gesso.partitioning.axes import partition, placements
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.checkpoints import load_params
from gesso.pretrain.checkpoints.manifest import Info
from gesso.pretrain.experiment import ExperimentError
from gesso.pretrain.origins.parameters import Origin, WarmStart
from gesso.pretrain.origins.resize import resize
from gesso.pretrain.origins.sources import Source, refuse_damaged
from gesso.pretrain.setup import Setup
from gesso.pretrain.state import State, init_state, make_init_from


def fresh_state(s: Setup) -> State:
    """The state before the first update of a run from scratch."""
    e = s.experiment
    return init_state(
        s.model,
        s.optimizer,
        seed=e.seed,
        mesh=s.mesh,
        layout=s.layout,
        dtype=e.precision.params,
        carry=s.objective.carry,
        rows=e.batch,
        parts=s.parts,
    )


def warm_state(s: Setup, warm_start: WarmStart) -> State:
    """The state before the first update of a run that starts from other runs' parameters, laid out
    on the mesh; fresh parameters have the bits that the seed gives them from scratch."""
    abstract = flat(abstract_params(s))
    params: dict[str, jax.Array] = {}
    for side, source in warm_start.sources.items():
        refuse_damaged(source)
        mine = [each for each in warm_start.origins if each.taken and each.side == side]
        params |= _load(s, source, mine, abstract)
    fresh = [each.name for each in warm_start.origins if each.kind == "fresh"]
    return state_from(s, nest(params | _draw(s, fresh, abstract)))


def params_from_import(s: Setup, checkpoints: Path) -> tuple[Params, Info]:
    """(parameters, info) of what `gesso import` left, on the mesh: the whole model's or, of an
    adapter, the trained ones. Raises ExperimentError for a store of another tokenizer, ValueError
    as load_params."""
    # Imported parameters are float32 on disk, whatever the run's dtype is.
    as_saved = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding),
        abstract_params(s),
    )
    adapter = s.parts.frozen_saved == "elsewhere"
    params, info = load_params(checkpoints, s.abstract["params"] if adapter else as_saved)
    if info["tokenizer"] != s.tokenizer.fingerprint:
        raise ExperimentError(
            f"the store {s.experiment.data.store} was made with another tokenizer than the imported"
            f" model; build it with --tokenizer {checkpoints.parent / 'tokenizer'}"
        )
    return params, info


def state_from(s: Setup, params: Params) -> State:
    """The state before the first update of a run that starts from these parameters, the whole
    model's, whose memory it takes over. The optimizer is fresh."""
    e = s.experiment
    init = make_init_from(
        s.model, s.optimizer, carry=s.objective.carry, rows=e.batch, parts=s.parts
    )
    donated = () if s.mesh.devices.flat[0].platform == "cpu" else (0,)
    shardings = jax.tree.map(lambda x: x.sharding, s.abstract)

    def cast_and_init(params: Params, key: jax.Array) -> State:
        return init(jax.tree.map(lambda x: x.astype(e.precision.params), params), key)

    with partition(s.mesh, s.layout), warnings.catch_warnings():
        # Stacks of layers that are cut in two cannot be taken over in place.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        make = jax.jit(cast_and_init, out_shardings=shardings, donate_argnums=donated)
        return make(params, jax.random.key(e.seed))


def abstract_params(s: Setup) -> Params:
    """All the model's parameters as jax.ShapeDtypeStructs, in the run's dtype, with shardings."""
    shardings = placements(s.model.letters, s.layout.at_rest, s.mesh)
    shapes = jax.eval_shape(s.model.init, jax.random.key(0))
    dtype = s.experiment.precision.params
    return jax.tree.map(
        lambda x, each: jax.ShapeDtypeStruct(x.shape, dtype, sharding=each), shapes, shardings
    )


def _load(
    s: Setup,
    source: Source,
    origins: Sequence[Origin],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    """Parameters of one source in the run's shapes and places."""
    everywhere = jax.sharding.NamedSharding(s.mesh, jax.sharding.PartitionSpec())
    asked: dict[str, jax.ShapeDtypeStruct] = {}
    for origin in origins:
        for piece in source.pieces[origin.taken]:
            # A resized table is split when it has its new size.
            where = everywhere if origin.kind == "resized" else abstract[origin.name].sharding
            asked[piece.name] = jax.ShapeDtypeStruct(
                piece.leaf.shape, piece.leaf.dtype, sharding=where
            )
    arrays = flat(array_files.load(source.folder, nest(asked)))
    known = source.tokenizer_of_run().vocab_size
    letters = flat(s.model.letters)
    made = {}
    for origin in origins:
        pieces = [arrays[piece.name] for piece in source.pieces[origin.taken]]
        if len(pieces) == 1 and origin.kind != "resized":
            made[origin.name] = pieces[0]
            continue
        join = jax.jit(
            lambda pieces, origin=origin: resize(
                jnp.concatenate(pieces) if pieces[1:] else pieces[0],
                origin.shape,
                letters[origin.name],
                known,
            ),
            out_shardings=abstract[origin.name].sharding,
        )
        made[origin.name] = join(pieces)
    return made


def _draw(
    s: Setup, names: Sequence[str], abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Fresh parameters, drawn where they lie: no device holds more than its part."""
    if not names:
        return {}

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        params = flat(s.model.init(key))
        return {name: params[name] for name in names}

    shardings = {name: abstract[name].sharding for name in names}
    with partition(s.mesh, s.layout):
        return jax.jit(draw, out_shardings=shardings)(jax.random.key(s.experiment.seed))
