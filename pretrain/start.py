"""Where a run begins: its own newest checkpoint, another run's, what was imported, or scratch.

The one place that decides: resume > start > imported > scratch. A folder made by `gesso import` has
a checkpoint 0 of parameters alone: the optimizer that goes with them is chosen when training
starts.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gesso.models.trees import flat, nest
from gesso.partitioning.axes import partition, placements
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.checkpoints import load_params
from gesso.pretrain.checkpoints.manifest import ManifestDamaged, read
from gesso.pretrain.checkpoints.step_folders import candidates, complete_steps
from gesso.pretrain.experiment import ExperimentError
from gesso.pretrain.origins.adapter import digest
from gesso.pretrain.origins.parameters import Beginning, Origin, beginning
from gesso.pretrain.origins.resize import resized
from gesso.pretrain.origins.sources import Source, refuse_damaged
from gesso.pretrain.setup import Setup
from gesso.pretrain.state import State, begun, carry_of, init_state

IMPORTED = "imported"


def decided(s: Setup, checkpoints: Path) -> Literal["resume", "start", "imported", "scratch"]:
    """What a run with these checkpoints of its own begins with. Raises ExperimentError where both
    imported parameters and a source are named, and for an adapter over nothing."""
    named = s.experiment.start.named
    apart = s.parts.frozen_saved == "elsewhere"
    if apart and not named:
        raise ExperimentError(
            "an adapter is trained over another run's parameters; say which: gesso finetune"
            f" {s.experiment.name} --start RUN (gesso import makes one of a published checkpoint)"
        )
    if has_imported(checkpoints):
        if named and not apart:
            raise ExperimentError(
                f"{checkpoints.parent} holds imported parameters, and start names others; use"
                " another --folder"
            )
        return "imported"
    if candidates(checkpoints, None) or any(checkpoints.glob("rejected-*")):
        return "resume"
    return "start" if named else "scratch"


def has_imported(checkpoints: Path) -> bool:
    """Whether the only checkpoint there is was imported, and no update has been made since."""
    if complete_steps(checkpoints) != [0]:
        return False
    try:
        return IMPORTED in read(checkpoints / "0").info
    except ManifestDamaged:
        return False  # restoring it says what is wrong


def sought(s: Setup) -> Beginning:
    """Where each parameter of the run comes from; reads no array. Raises ExperimentError."""
    shapes = {name: x.shape for name, x in flat(abstract_whole(s)).items()}
    return beginning(s.experiment, s.model.letters, shapes, s.tokenizer)


def started_state(s: Setup, begins: Beginning) -> State:
    """The state before the first update of a run that begins with other runs' parameters, laid out
    on the mesh; what is fresh has the bits that the seed gives it from scratch."""
    abstract = flat(abstract_whole(s))
    whole: dict[str, Any] = {}
    for side, source in begins.sources.items():
        refuse_damaged(source)
        mine = [each for each in begins.origins if each.taken and each.side == side]
        whole |= _loaded(s, source, mine, abstract)
    fresh = [each.name for each in begins.origins if each.kind == "fresh"]
    return state_of(s, nest(whole | _drawn(s, fresh, abstract)))


def saved(s: Setup, state: State) -> State:
    """What a checkpoint of the state holds."""
    if s.parts.frozen_saved == "checkpoint":
        return state
    return {name: each for name, each in state.items() if name != "frozen"}


def base_of(s: Setup, state: State) -> dict[str, Any]:
    """What a checkpoint without its frozen parameters says of them; {} of one that has them."""
    if s.parts.frozen_saved == "checkpoint":
        return {}
    start = dataclasses.asdict(s.experiment.start)
    return {"base": {"fingerprint": digest(state["frozen"]), "start": start}}


def with_base(s: Setup, state: State, info: Mapping[str, Any]) -> State:
    """A restored state with the frozen parameters that its checkpoint lacks, made as at the start.
    Raises ExperimentError when they are not those it was trained over."""
    if s.parts.frozen_saved == "checkpoint":
        return state
    whole = state | {"frozen": started_state(s, sought(s))["frozen"]}
    if base_of(s, whole)["base"]["fingerprint"] != info["base"]["fingerprint"]:
        start = s.experiment.start
        raise ExperimentError(
            f"{start.source or start.encoder} is not what this run was trained over: its parameters"
            " have changed; name the checkpoint it began with (--start.source RUN/checkpoints/STEP)"
        )
    return whole


def imported_state(s: Setup, checkpoints: Path) -> State:
    """The state before the first update: imported parameters, laid out on the mesh, a fresh
    optimizer. Of an adapter, over the parameters that it was made for. Raises ExperimentError for a
    store of another tokenizer, ValueError as load_params.
    """
    if s.parts.frozen_saved == "elsewhere":
        params, info = load_params(checkpoints, s.abstract["params"])
        _refuse_other_tokenizer(s, checkpoints, info)
        started = started_state(s, sought(s)) | {"params": params}
        return with_base(s, {n: x for n, x in started.items() if n != "frozen"}, info)
    as_saved = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), abstract_whole(s)
    )
    whole, info = load_params(checkpoints, as_saved)
    _refuse_other_tokenizer(s, checkpoints, info)
    return state_of(s, whole)


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
        carry=carry_of(s.objective),
        rows=e.batch,
        parts=s.parts,
    )


def abstract_whole(s: Setup) -> Any:
    """All the model's parameters, in the run's dtype, with their shardings."""
    shardings = placements(s.model.letters, s.layout.at_rest, s.mesh)
    shapes = jax.eval_shape(s.model.init, jax.random.key(0))
    dtype = s.experiment.precision.params
    return jax.tree.map(
        lambda x, each: jax.ShapeDtypeStruct(x.shape, dtype, sharding=each), shapes, shardings
    )


def state_of(s: Setup, whole: Any) -> State:
    """The state before the first update of a run that begins with these parameters, which it
    takes over. The optimizer is fresh."""
    e = s.experiment
    begin = begun(s.model, s.optimizer, carry=carry_of(s.objective), rows=e.batch, parts=s.parts)
    donated = () if s.mesh.devices.flat[0].platform == "cpu" else (0,)
    shardings = jax.tree.map(lambda x: x.sharding, s.abstract)

    def cast_and_begin(whole: Any, key: jax.Array) -> State:
        return begin(jax.tree.map(lambda x: x.astype(e.precision.params), whole), key)

    with partition(s.mesh, s.layout), warnings.catch_warnings():
        # Stacks of layers that are cut in two cannot be taken over in place.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        made = jax.jit(cast_and_begin, out_shardings=shardings, donate_argnums=donated)
        return made(whole, jax.random.key(e.seed))


def _refuse_other_tokenizer(s: Setup, checkpoints: Path, info: Mapping[str, Any]) -> None:
    if info["tokenizer"] != s.tokenizer.fingerprint:
        raise ExperimentError(
            f"the store {s.experiment.data.store} was made with another tokenizer than the imported"
            f" model; build it with --tokenizer {checkpoints.parent / 'tokenizer'}"
        )


def _loaded(
    s: Setup, source: Source, origins: list[Origin], abstract: Mapping[str, Any]
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
        parts = [arrays[piece.name] for piece in source.pieces[origin.taken]]
        if len(parts) == 1 and origin.kind != "resized":
            made[origin.name] = parts[0]
            continue
        join = jax.jit(
            lambda parts, origin=origin: resized(
                jnp.concatenate(parts) if parts[1:] else parts[0],
                origin.shape,
                letters[origin.name],
                known,
            ),
            out_shardings=abstract[origin.name].sharding,
        )
        made[origin.name] = join(parts)
    return made


def _drawn(s: Setup, names: list[str], abstract: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Fresh parameters, born where they live."""
    if not names:
        return {}

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        params = flat(s.model.init(key))
        return {name: params[name] for name in names}

    shardings = {name: abstract[name].sharding for name in names}
    with partition(s.mesh, s.layout):
        return jax.jit(draw, out_shardings=shardings)(jax.random.key(s.experiment.seed))
