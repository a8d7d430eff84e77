"""A published folder to our config, parameters and tokenizer files: `read_folder`."""

import dataclasses
import fnmatch
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from gesso.export.files.tensors import FolderError, Tensors, TensorSpec, some
from gesso.export.kinds import kind_of
from gesso.export.tables.format import Format
from gesso.export.tables.tables import Place, Resize, Row, check, places, read_parameters, slots
from gesso.models import build
from gesso.models.model import Model, Params
from gesso.models.trees import flat, nest

Origin = Literal["loaded", "tied", "resized", "fresh"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "words.json",
    "words_beyond.txt",
    "spiece.model",
    "sentencepiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True)
class Parameter:
    """Where one parameter came from. tensors: the names in the files, one line for all layers."""

    path: str
    shape: tuple[int, ...]
    tensors: str
    origin: Origin


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What `read_folder` found. params: nested dicts of float32 numpy arrays. tokenizer: its files
    by name. report: every parameter's origin. buffers: non-weight tensors, by name."""

    config: Any
    params: Params
    tokenizer: dict[str, bytes]
    report: tuple[Parameter, ...]
    buffers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A folder whose tensors fit its config, before any of them is read."""

    config: Any
    model: Model
    format: Format
    places: list[Place]
    source: Tensors
    resized: dict[str, Resize]
    fresh: tuple[str, ...]
    tied: dict[str, str]
    buffers: tuple[str, ...]


def read_folder(
    path: str | os.PathLike[str],
    *,
    vocab: int = 0,
    positions: int = 0,
    fresh: Sequence[str] = (),
    seed: int = 0,
) -> Imported:
    """The checkpoint in a folder: as `save_pretrained` writes it, from safetensors or .bin files,
    or ELMo's options.json and HDF5.

    vocab: rows of the table (0: as published), to fit a mesh or more tokens; further rows are the
        mean of the published ones, so that none is likelier than an average token.
    positions: the longest row (0: as published); further learned positions repeat the published.
    fresh: patterns (fnmatch) of parameters that the folder may lack, such as a new head; these are
        drawn with `seed`.

    Raises FolderError, before any parameter is made, for a config field that cannot be honoured,
    a tensor that is missing, extra, misshapen or no float; and for damaged files, naming it.
    """
    opened = open_folder(path, vocab=vocab, positions=positions, fresh=fresh)
    params = dict(parameters_of(opened, seed=seed))
    return Imported(
        config=opened.config,
        params=nest({path: params[path] for path in flat(opened.model.letters)}),
        tokenizer=tokenizer_files(Path(path)),
        report=report_of(opened),
        buffers=opened.buffers,
    )


def open_folder(
    path: str | os.PathLike[str],
    *,
    vocab: int = 0,
    positions: int = 0,
    fresh: Sequence[str] = (),
) -> Opened:
    """`read_folder` up to the point where tensors are read: everything is checked but values."""
    kind = kind_of(Path(path))
    form, fields = kind.format, kind.fields
    config = form.read(fields)
    fields.close()
    named, buffers = _rename_tensors(kind.weights(config), form)
    drawn = {row.theirs for row in form.table(config) if _matches(row.ours, fresh)}
    settled = form.settle(config, named.specs.keys() | drawn)
    config, tied, unread = _settle_ties(settled, form, named)
    if problems := config.problems():
        raise FolderError(f"{fields.source}: {'; '.join(problems)}")
    config, resized = _resize(config, vocab=vocab, positions=positions)
    model = build(config)
    table, absent = _without(form.table(config), named, fresh)
    found = places(table, slots(model), resized=resized, untabled=absent)
    check(found, named)
    return Opened(
        config=config,
        model=model,
        format=form,
        places=found,
        source=named,
        resized=resized,
        fresh=tuple(absent),
        tied=tied,
        buffers=(*buffers, *unread),
    )


def parameters_of(opened: Opened, *, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(path, float32 array) of every parameter, one after the other, the largest first; those that
    the folder lacks are drawn with `seed`. Raises FolderError for damaged files and values that are
    no number."""
    places = sorted(opened.places, key=lambda place: -math.prod(place.slots[0].shape))
    yield from read_parameters(places, opened.source, resized=opened.resized)
    yield from _draw(opened.model, opened.fresh, seed).items()


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The content of the tokenizer's files in a folder, by name."""
    return {
        name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()
    }


class _Renamed:
    """Tensors under other names."""

    def __init__(self, source: Tensors, names: dict[str, str]) -> None:
        self._source, self._names = source, names
        self.specs: dict[str, TensorSpec] = {
            ours: source.specs[theirs] for ours, theirs in names.items()
        }

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._names[name])

    def rename(self, old: str, new: str) -> None:
        self._names[new], self.specs[new] = self._names.pop(old), self.specs.pop(old)

    def drop(self, name: str) -> None:
        del self._names[name], self.specs[name]


def _rename_tensors(source: Tensors, form: Format) -> tuple[_Renamed, tuple[str, ...]]:
    """The tensors as the table spells them, and the names of those that are no weights."""
    names: dict[str, str] = {}
    buffers = []
    for theirs in source.specs:
        ours = form.canonical(theirs)
        if ours is None:
            buffers.append(theirs)
        elif ours in names:
            raise FolderError(f"{theirs} and {names[ours]} are two spellings of one tensor")
        else:
            names[ours] = theirs
    return _Renamed(source, names), tuple(buffers)


def _settle_ties(
    config: Any, form: Format, source: _Renamed
) -> tuple[Any, dict[str, str], list[str]]:
    """The config that the tensors say: what is there twice and differs was not tied. Beside it the
    names that were tied, and those that nobody reads."""
    tied: dict[str, str] = {}
    unread: list[str] = []
    for tie in form.ties(config):
        if tie.other not in source.specs:
            continue
        if tie.name not in source.specs:
            source.rename(tie.other, tie.name)
        elif _digest(source, tie.other) == _digest(source, tie.name):
            source.drop(tie.other)
            tied[tie.other] = tie.name
        elif tie.differs:
            config = dataclasses.replace(config, **tie.differs)
        elif tie.wins == "other":
            source.drop(tie.name)
            source.rename(tie.other, tie.name)
            unread.append(tie.name)
        else:
            raise FolderError(
                f"{tie.other} {source.specs[tie.other]} and {tie.name} {source.specs[tie.name]}"
                " differ, and this model has one tensor for both"
            )
    return config, tied, unread


def _digest(source: Tensors, name: str) -> bytes:
    x = source.read(name)
    spec = f"{x.dtype}{x.shape}".encode()
    content = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return hashlib.blake2b(content.data, key=spec[:64]).digest()


def _resize(config: Any, *, vocab: int, positions: int) -> tuple[Any, dict[str, Resize]]:
    """The config of the size asked for, and which letters have another size in the files."""
    resized: dict[str, Resize] = {}
    for name, letter, asked, fill in (
        ("vocab", "V", vocab, "mean"),
        ("positions", "S", positions, "repeat"),
    ):
        fields = {each.name for each in dataclasses.fields(config)}
        published = getattr(config, name) if name in fields else 0
        if not asked or asked == published:
            continue
        if not published:
            raise FolderError(f"a model of the family {config.family} has no {name} to resize")
        resized[letter] = Resize(published, fill)
        config = dataclasses.replace(config, **{name: asked})
    return config, resized


def _without(
    table: list[Row], source: Tensors, fresh: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """The table without the rows of those `fresh` parameters that the files lack, and these."""
    kept, absent = [], []
    for row in table:
        spelled = re.compile(re.sub(r"\\\{[A-Z]\\\}", r"\\d+", re.escape(row.theirs)))
        there = any(spelled.fullmatch(name) for name in source.specs)
        if not there and _matches(row.ours, fresh):
            absent.append(row.ours)
        else:
            kept.append(row)
    return kept, absent


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _draw(model: Model, paths: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    if not paths:
        return {}

    def draw(key: jax.Array) -> Mapping[str, jax.Array]:
        params = flat(model.init(key))
        return {path: params[path] for path in paths}

    return {path: np.asarray(x) for path, x in jax.jit(draw)(jax.random.key(seed)).items()}


def report_of(opened: Opened) -> tuple[Parameter, ...]:
    """Every parameter with its origin, in the table's order; then the names that were tied."""
    shapes = slots(opened.model)
    rows = [
        Parameter(
            path,
            shapes[path].shape,
            place.row.theirs,
            "resized" if set(opened.resized) & set(shapes[path].letters) else "loaded",
        )
        for place in opened.places
        for path in place.ours
    ]
    rows += [Parameter(path, shapes[path].shape, "", "fresh") for path in opened.fresh]
    by_name = {place.row.theirs: place.ours[0] for place in opened.places}
    for other, name in opened.tied.items():
        path = by_name.get(name, name)
        rows.append(Parameter(path, shapes[path].shape if path in shapes else (), other, "tied"))
    return tuple(rows)


def summary(report: Sequence[Parameter]) -> str:
    """A line per origin: how many parameters, and the first of those that were not just loaded."""
    lines = []
    for origin in ("loaded", "resized", "tied", "fresh"):
        found = [each for each in report if each.origin == origin]
        names = "" if origin == "loaded" else f": {some([each.path for each in found], 6)}"
        if found:
            lines.append(f"{len(found)} {origin}{names}")
    return "\n".join(lines)
