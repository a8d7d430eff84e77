"""Where each parameter of a new run comes from: loaded, resized, tied or fresh."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gesso.data.tokenizers.base import Tokenizer
from gesso.models.trees import flat
from gesso.pretrain.config import StartConfig
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.optimizer.trained import Letters, matches
from gesso.pretrain.origins.sources import Source, extends, open_source

# Settings of a model that change no parameter a source has, and no equation its weights were
# trained for: dropout, the heads (checked by their parameters), how things are computed.
_FREE = (
    "*dropout",
    "outputs",
    "labels",
    "pooling",
    "head",
    "vocab",
    "positions",
    "remat",
    "unroll",
    "attention",
    "chunk_words",
    "init*",
    "residual_init",
    "embed_std",
    "start",
)
# An untied head starts from the table of the source's tied one.
_UNTIED = {"head_table": "embed", "table": "embed"}

# A parameter in start.json: name, shape, origin, from, was, trained.
Row = dict[str, Any]
Kind = Literal["loaded", "resized", "tied", "fresh"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of one parameter. taken: its name in the source, "" when fresh. side: which source."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    taken: str = ""
    side: str = ""
    was: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Which parameters of other runs a new run starts from. sources: by side ("", or "encoder" and
    "decoder"). left: what the sources have and the model does not."""

    sources: Mapping[str, Source]
    origins: tuple[Origin, ...]
    left: tuple[str, ...]


def warm_start_of(
    experiment: Experiment,
    letters: Letters,
    shapes: Mapping[str, Sequence[int]],
    tokenizer: Tokenizer,
) -> WarmStart:
    """What an experiment's `start` gives each of the model's parameters.

    letters: the model's. shapes: of its parameters, by name. tokenizer: the store's. Raises
    ExperimentError naming every parameter that has no match, with both shapes, and for a source of
    another tokenizer or another model.
    """
    start = experiment.start
    named = {"": start.source, "encoder": start.encoder, "decoder": start.decoder}
    sources = {
        side: open_source(each, setting=f"start.{side or 'source'}")
        for side, each in named.items()
        if each
    }
    for side, source in sources.items():
        _refuse_other_tokenizer(source, tokenizer, experiment)
        _refuse_other_model(experiment, source, side)
    return match(start, sources, flat(letters), {n: tuple(s) for n, s in shapes.items()})


def match(
    start: StartConfig,
    sources: Mapping[str, Source],
    letters: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> WarmStart:
    """Each parameter with its origin, matched by name. Raises ExperimentError as warm_start_of."""
    offered = {
        _rename(f"{side}/{name}" if side else name, start.rename): (side, name)
        for side, source in sources.items()
        for name in source.pieces
    }
    if "decoder" in sources or "encoder" in sources:
        drawn = (*start.allow_fresh, "source/*", "projection/*")
    else:
        drawn = start.allow_fresh
    origins, problems, used = [], [], set()
    for name, shape in shapes.items():
        side, taken = offered.get(name, ("", ""))
        kind: Kind = "loaded"
        if not taken:
            *parents, last = name.split("/")
            other = "/".join(
                [*(parents if last == "head_table" else parents[:-1]), _UNTIED.get(last, "")]
            )
            side, taken = offered.get(other, ("", "")) if last in _UNTIED else ("", "")
            kind = "tied"
        was = sources[side].shape(taken) if taken else ()
        if taken and was != shape and _resizable(letters[name], was, shape):
            kind = "resized"
        if taken and (was == shape or kind == "resized"):
            used.add((side, taken))
            origins.append(
                Origin(name=name, shape=shape, kind=kind, taken=taken, side=side, was=was)
            )
        elif matches(name, drawn):
            origins.append(Origin(name=name, shape=shape, kind="fresh"))
        elif taken:
            problems.append(f"{name} is {_shape_text(shape)} here and {_shape_text(was)} there")
        else:
            problems.append(f"{name} {_shape_text(shape)} is not there")
    if problems:
        places = " and ".join(str(each.folder) for each in sources.values())
        listed = "".join(f"\n  - {each}" for each in problems)
        raise ExperimentError(
            f"{places} cannot begin this model:{listed}\nmake the model the source's, name what it"
            " is called there (start.rename), or let new parameters be drawn, such as"
            f" --start.allow-fresh {problems[0].split()[0]}"
        )
    left = sorted(name for name, where in offered.items() if where not in used)
    return WarmStart(sources=sources, origins=tuple(origins), left=tuple(left))


def table_of(start: WarmStart, trained: Mapping[str, str]) -> list[Row]:
    """[{"name", "shape", "origin", "from", "trained"}] of every parameter. trained: how much
    of each is trained, by name ("frozen > top 2 > trained")."""
    return [
        {
            "name": each.name,
            "shape": list(each.shape),
            "origin": each.kind,
            "from": "/".join(part for part in (each.side, each.taken) if part),
            "was": list(each.was) if each.kind == "resized" else [],
            "trained": trained[each.name],
        }
        for each in start.origins
    ]


def lines_of(rows: Sequence[Row]) -> list[str]:
    """The table of `table_of` as lines of text."""
    cells = [
        (
            row["name"],
            _shape_text(row["shape"]),
            row["origin"] + (f" from {_shape_text(row['was'])}" if row["was"] else ""),
            row["trained"],
            "" if row["from"] == row["name"] else row["from"],
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _resizable(letters: str, was: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether only the vocabulary or the positions have another size."""
    return len(was) == len(shape) and all(
        a == b or letter in "VS" for letter, a, b in zip(letters, was, shape, strict=True)
    )


def _rename(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if fnmatch.fnmatchcase(name, old):
            before, star, after = old.partition("*")
            return new.replace("*", name[len(before) : len(name) - len(after)]) if star else new
    return name


def _refuse_other_tokenizer(source: Source, tokenizer: Tokenizer, experiment: Experiment) -> None:
    if source.tokenizer == tokenizer.fingerprint:
        return
    if extends(tokenizer, source.tokenizer_of_run()):
        return
    raise ExperimentError(
        f"the store {experiment.data.store} was made with another tokenizer than {source.run}"
        f" ({tokenizer.fingerprint[:12]}, not {source.tokenizer[:12]}); build it with --tokenizer"
        f" {source.run / 'tokenizer'}, or with one that has the same ids and more"
    )


def _refuse_other_model(experiment: Experiment, source: Source, side: str) -> None:
    """Equal shapes do not make equal equations."""
    theirs, ours = source.experiment.model, experiment.model
    if side:
        ours = getattr(ours, side)
    setting = f"model.{side}." if side else "model."
    if theirs.family != ours.family:
        if experiment.start.rename:
            return
        raise ExperimentError(
            f"{source.run} holds a {theirs.family}, and experiment {experiment.name!r} trains a"
            f" {ours.family}: choose an experiment of that family (gesso list)"
        )
    known, asked = _settings(theirs), _settings(ours)
    free = (*_FREE, *experiment.start.allow_changed)
    # A side's setting, "encoder.epsilon", is free where "epsilon" is.
    differing = [
        name
        for name in known
        if known[name] != asked.get(name, "no such setting")
        and not matches(name, free)
        and not matches(name.rpartition(".")[2], free)
    ]
    sized = {"layers", "embed", "heads", "mlp", "cell", "head_dim", "filters"}
    sized |= {"encoder_layers", "decoder_layers", "token_types"}
    if wrong := [name for name in differing if name.rpartition(".")[2] not in sized]:
        listed = "".join(
            f"\n  - {setting}{name}: {known[name]!r} there, {asked[name]!r} asked" for name in wrong
        )
        raise ExperimentError(
            f"{source.run} was trained as another model:{listed}\ntake its settings (gesso"
            f" finetune does), or name what may differ: --start.allow-changed {' '.join(wrong)}"
        )


def _settings(config: Any, before: str = "") -> dict[str, object]:
    """{"epsilon": ...}; of the sides of an encoder-decoder {"encoder.epsilon": ...}."""
    found: dict[str, object] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            found |= _settings(value, f"{before}{each.name}.")
        else:
            found[before + each.name] = value
    return found


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
