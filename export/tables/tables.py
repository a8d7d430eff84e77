"""Tables that are read both ways: our parameter, their tensor, their layout in our letters.

A row ("blocks/attention/q", "h.{Z}.attn.q_proj.weight", "(NH)D") says that a tensor per layer holds
our q, N and H in one dim. Sizes are our arrays' own, so that one row serves every size of a family;
what a model has and what a folder has must both be covered, every tensor by one row.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from gesso.export.files.tensors import FLOATS, FolderError, Tensors
from gesso.export.tables.transforms import TRANSFORMS, copy
from gesso.models.model import Model
from gesso.models.trees import flat

# In a layout, the dim that holds the several parameters of a row with braces in `ours`.
FUSED = "*"
Array = np.ndarray | jax.Array
# Parameters: nested mappings of arrays, or Paths.
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    ours: a parameter's path; with "{q,k,v}" in it several, which share one tensor along the dim "*"
        of the layout.
    theirs: a tensor's name; "{Z}" makes it one tensor per layer.
    layout: the tensor's dims in our letters; letters in brackets share a dim; "()" is a dim of 1.
    transform: a named change of values (export.tables.transforms), where a layout does not suffice.
    """

    ours: str
    theirs: str
    layout: str
    transform: str = "same"


class Slot(NamedTuple):
    """letters and shape of one of our parameters."""

    letters: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.letters}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Resize:
    """A letter that has another size in the files than in our arrays. fill: what the further rows
    of ours become: the "mean" of theirs, or theirs again from the first on ("repeat")."""

    theirs: int
    fill: str = "mean"


@dataclass(frozen=True)
class Place:
    """A row with its sizes. tensors: {indices of the letters in their names: their name}. sizes:
    {letter: size} in the files. shape: their tensors'."""

    row: Row
    ours: tuple[str, ...]
    slots: tuple[Slot, ...]
    index: str
    groups: tuple[str, ...]
    sizes: Mapping[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.sizes[each] for each in group) for group in self.groups)

    @property
    def tensors(self) -> dict[tuple[int, ...], str]:
        each = itertools.product(*(range(self.sizes[letter]) for letter in self.index))
        names = {at: dict(zip(self.index, at, strict=True)) for at in each}
        return {at: self.row.theirs.format(**name) for at, name in names.items()}

    def order(self) -> list[int]:
        """The permutation from their dims, taken apart, to ours: "*" first, then as in our array
        without the dims that their names count."""
        apart = "".join(self.groups)
        inside = [each for each in self.slots[0].letters if each not in self.index]
        return [apart.index(each) for each in ([FUSED] if FUSED in apart else []) + inside]

    def apart(self) -> list[int]:
        """Their shape with every bracket taken apart."""
        return [self.sizes[each] for each in "".join(self.groups)]

    def where(self, at: tuple[int, ...]) -> tuple[Any, ...]:
        """Index into our array of the part that the tensor at `at` holds, cut to their sizes."""
        counted = dict(zip(self.index, at, strict=True))
        letters, shape = self.slots[0].letters, self.slots[0].shape
        return tuple(
            counted.get(each, slice(0, min(size, self.sizes[each])))
            for each, size in zip(letters, shape, strict=True)
        )


def slots(model: Model) -> dict[str, Slot]:
    """Letters and shape of every parameter of a model, by path; nothing is computed."""
    shapes = flat(jax.eval_shape(model.init, jax.random.key(0)))
    letters = flat(model.letters)
    return {path: Slot(letters[path], tuple(x.shape)) for path, x in shapes.items()}


def places(
    table: Sequence[Row],
    slots: Mapping[str, Slot],
    *,
    resized: Mapping[str, Resize] | None = None,
    untabled: Iterable[str] = (),
) -> list[Place]:
    """The rows with their sizes. `untabled`: parameters that no row needs to name.

    Raises FolderError when a parameter is in no row, in two, or a row names none of the model's.
    """
    found = [_place(row, slots, resized or {}) for row in table]
    named = [each for place in found for each in place.ours]
    problems = [
        f"{each} is in two rows" for each in sorted({n for n in named if named.count(n) > 1})
    ]
    problems += [
        f"parameter {each} {slots[each]} has no tensor in this format"
        for each in sorted(slots.keys() - set(named) - set(untabled))
    ]
    if problems:
        raise FolderError("; ".join(problems))
    return found


def check(found: Sequence[Place], source: Tensors) -> None:
    """Raise one FolderError naming every tensor that is missing, extra, misshapen or no float."""
    specs, wanted, problems = source.specs, set[str](), []
    for place in found:
        for name in place.tensors.values():
            wanted.add(name)
            whose = " and ".join(place.ours)
            if name not in specs:
                problems.append(f"{name} {list(place.shape)} ({whose}) is missing")
            elif specs[name].shape != place.shape:
                has = list(specs[name].shape)
                problems.append(
                    f"{name} has shape {has}, but {whose} of this config needs {list(place.shape)}"
                )
            elif specs[name].dtype not in FLOATS:
                problems.append(f"{name} is {specs[name].dtype}, and a weight is a float")
    problems += [
        f"{name} {specs[name]} in {specs[name].file} is not a parameter of this model"
        for name in sorted(specs.keys() - wanted)
    ]
    if problems:
        listed = "".join(f"\n  - {each}" for each in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise FolderError(f"these tensors do not fit the model of config.json:{listed}{more}")


def read_parameters(
    found: Sequence[Place], source: Tensors, *, resized: Mapping[str, Resize] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, float32 array) of each parameter, from one of their tensors at a time.

    Besides the parameter being filled, one tensor is in memory. Raises FolderError for a value
    that is not finite, which no trained weight is: the file is damaged.
    """
    for place in found:
        arrays = _fill_arrays(place, source)
        for path, slot in zip(place.ours, place.slots, strict=True):
            for letter, resize in (resized or {}).items():
                if letter in slot.letters and letter not in place.index:
                    _fill(arrays[0], slot.letters.index(letter), resize)
            yield path, arrays.pop(0)  # not held here: whoever takes it may be done with it


def _fill_arrays(place: Place, source: Tensors) -> list[np.ndarray]:
    arrays = [np.empty(slot.shape, np.float32) for slot in place.slots]
    for at, name in place.tensors.items():
        theirs = source.read(name)
        _finite(name, theirs)
        part = TRANSFORMS[place.row.transform].read(theirs).reshape(place.apart())
        part = part.transpose(place.order())
        where = place.where(at)
        for array, x in zip(arrays, part if FUSED in place.row.layout else [part], strict=True):
            target = array[where]
            copy(target, x[tuple(slice(0, n) for n in target.shape)])
    return arrays


def write_tensors(
    found: Sequence[Place],
    params: Mapping[str, Any],
    *,
    dtype: np.dtype,
    copies: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, contiguous array) of every tensor, in the table's order, one at a time.
    copies: {name: another name it has as well}, which follows it.

    Raises FolderError for a value that is not finite, or not finite in `dtype`.
    """
    for place in found:
        for name, x in _write_place(place, params, dtype):
            yield name, x
            if copies and name in copies:
                yield copies[name], x


def _write_place(
    place: Place, params: Mapping[str, Any], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    # A function of its own: when it ends nothing holds its parameters, before others are read.
    arrays = [params[path] for path in place.ours]
    for at, name in place.tensors.items():
        x = np.empty(place.apart(), dtype)
        inside = x.transpose(place.order())
        with np.errstate(over="ignore"):
            for array, into in zip(
                arrays, inside if FUSED in place.row.layout else [inside], strict=True
            ):
                part = np.asarray(array[place.where(at)])
                _finite(f"{name} ({' and '.join(place.ours)})", part)
                copy(into, part)
        x = TRANSFORMS[place.row.transform].write(x.reshape(place.shape))
        if dtype != np.float32:
            _finite(f"{name} in {dtype}", x)
        yield name, np.ascontiguousarray(x)


class Paths(Mapping[str, Any]):
    """Parameters by path, as `flat` gives them, each read when it is asked for and not kept."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Any]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, path: str) -> Any:
        if path not in self._names:
            raise KeyError(path)
        return self._read(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def by_path(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """`flat` of nested parameters; Paths are flat already, and stay unread."""
    return params if isinstance(params, Paths) else flat(params)


def _place(row: Row, slots: Mapping[str, Slot], resized: Mapping[str, Resize]) -> Place:
    braced = re.search(r"\{([^}]+)\}", row.ours)
    ours = (
        tuple(row.ours.replace(braced[0], each) for each in braced[1].split(","))
        if braced
        else (row.ours,)
    )
    if absent := [each for each in ours if each not in slots]:
        raise FolderError(f"the model has no parameter {absent[0]}, which {row.theirs} is for")
    letters, shape = slots[ours[0]]
    assert all(slots[each] == slots[ours[0]] for each in ours), row
    index = "".join(re.findall(r"\{([A-Z])\}", row.theirs))
    groups = tuple(a or b for a, b in re.findall(r"\(([A-Z*]*)\)|([A-Z*])", row.layout))
    sizes = dict(zip(letters, shape, strict=True)) | {FUSED: len(ours)}
    apart = index + "".join(groups)
    assert sorted(apart) == sorted(letters + (FUSED if braced else "")), (row, letters)
    sizes |= {letter: each.theirs for letter, each in resized.items() if letter in letters}
    return Place(row, ours, tuple(slots[each] for each in ours), index, groups, sizes)


def _finite(name: str, x: np.ndarray) -> None:
    # In slices: a mask of a whole tensor would be a quarter of it.
    step = max(1, (1 << 22) * len(x) // max(1, x.size)) if x.ndim else 1
    slices = [x] if not x.ndim else (x[i : i + step] for i in range(0, len(x), step))
    if bad := sum(0 if (f := np.isfinite(each)).all() else int((~f).sum()) for each in slices):
        raise FolderError(
            f"tensor {name} {x.dtype}{list(x.shape)} holds {bad} NaN or infinite values"
        )


def _fill(array: np.ndarray, axis: int, resize: Resize) -> None:
    """The places of `array` along `axis` that the files do not have."""
    rows = np.moveaxis(array, axis, 0)
    known = resize.theirs
    if known >= len(rows):
        return
    if resize.fill == "repeat":
        for start in range(known, len(rows), known):
            part = rows[start : start + known]
            part[...] = rows[: len(part)]
    else:
        rows[known:] = rows[:known].mean(0, dtype=np.float64)
