"""Which devices a collective of an HLO program joins, and along which mesh axes they differ."""

import math
import re
from collections.abc import Mapping

import numpy as np


def axes_of(rest: str, mesh: Mapping[str, int]) -> str:
    """The mesh axes along which a collective's groups reach, as in "data x fsdp"; "" where they
    cannot be told. rest: the instruction's attributes. mesh: {axis: size}, in its order."""
    group, numbered = first_group(rest)
    names = [axis for axis, n in mesh.items() if n > 1]
    # The program of one of several slices numbers its own devices alone.
    if names and numbered < math.prod(mesh.values()) and names[0] == "replica":
        names = names[1:]
    if len(group) < 2 or numbered != math.prod(mesh[axis] for axis in names):
        return ""
    places = np.unravel_index(group, [mesh[axis] for axis in names])
    return " x ".join(
        axis for axis, place in zip(names, places, strict=True) if len(set(place.tolist())) > 1
    )


def first_group(rest: str) -> tuple[list[int], int]:
    """(devices of the first group, how many devices there are in all groups), by any of the three
    spellings of replica_groups; ([], 0) where there are none."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        count, size = int(found[1]), int(found[2])
        return _iota(found[3]).reshape(count, size)[0].tolist(), count * size
    ids = r"(?:, device_ids=\(([^()]*(?:\([\d,]+\))?)\))?"
    if found := re.search(rf"replica_groups=mesh\[([^\]]*)\]{ids} *\{{([^}}]*)\}}", rest):
        return _of_mesh(found[1], found[2] or "", found[3])
    if found := re.search(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}", rest):
        groups = [
            [int(n) for n in each.split(",")] for each in re.findall(r"[\d,]+\d|\d", found[1])
        ]
        return groups[0], sum(map(len, groups))
    return [], 0


def _iota(spelled: str) -> np.ndarray:
    """ "[2,4]T(1,0)": the numbers from 0, in that shape, turned; flat."""
    dims = [int(n) for n in re.findall(r"\d+", spelled[: spelled.index("]")])]
    numbers = np.arange(math.prod(dims)).reshape(dims)
    if turned := re.search(r"T\(([\d,]+)\)", spelled):
        numbers = numbers.transpose([int(n) for n in turned[1].split(",")])
    return numbers.reshape(-1)


def _of_mesh(spelled: str, ids: str, joined: str) -> tuple[list[int], int]:
    sizes = {name: int(n) for name, n in re.findall(r"'?(\w+)'?=(\d+)", spelled)}
    total = math.prod(sizes.values())
    numbers = (_iota(ids) if "[" in ids else np.arange(total)).reshape(tuple(sizes.values()))
    # Of an axis that is joined in part, 'x':(2)4 of 16, the part between 2 and 2 x 4.
    parts = {name: (1, size, 1) for name, size in sizes.items()}
    taken = {}
    for name, before, size in re.findall(r"'?(\w+)'?(?::\((\d+)\)(\d+))?", joined):
        if before:
            parts[name] = (int(before), int(size), sizes[name] // int(before) // int(size))
        taken[name] = True
    shape = [n for part in parts.values() for n in part]
    index = [slice(None) if i == 1 and name in taken else 0 for name in parts for i in range(3)]
    return numbers.reshape(shape)[tuple(index)].reshape(-1).tolist(), total
