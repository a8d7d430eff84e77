"""Shapes of TPU slices: which there are, and what to say of one that there is not."""

import math
import re

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16"),
    *("8x16x16", "16x16x16"),
)
# As the pages of v4, v5e, v5p and v6e at cloud.google.com/tpu/docs list them; libtpu knows more.
SHAPES = {"v5e": _FLAT, "v6e": _FLAT, "v4": _CUBES, "v5p": (*_CUBES, "16x16x24")}
# Accelerator types as gcloud has them: (kind here, TensorCores that the number counts per chip).
_TYPES = {"v5litepod": ("v5e", 1), "v6e": ("v6e", 1), "v4": ("v4", 2), "v5p": ("v5p", 2)}


def check_shape(kind: str, shape: str) -> None:
    """Raises ValueError for a shape that no slice of a kind can have, with the nearest there are.

    Whole hosts of 2x2 chips: the first two sides are even, or the slice is one chip.
    """
    known = SHAPES.get(kind)
    if known is None or shape in known:
        return
    sides = [int(each) for each in shape.split("x")]
    largest = max(math.prod(map(int, each.split("x"))) for each in known)
    fits = len(sides) == len(known[0].split("x")) and math.prod(sides) <= largest
    if fits and min(sides) > 0 and sides[0] % 2 == sides[1] % 2 == 0:
        return
    raise ValueError(
        f"there is no {kind} slice of {shape}: {_rule(known)}; near it: {near(kind, shape)}"
    )


def near(kind: str, shape: str) -> str:
    """ "v5e:4x4 (16 chips), ...": the listed slices of a kind nearest in size, smallest first."""
    asked = math.log2(max(1, math.prod(int(each) for each in shape.split("x"))))

    def chips(known: str) -> int:
        return math.prod(map(int, known.split("x")))

    nearest = sorted(SHAPES[kind], key=lambda each: abs(math.log2(chips(each)) - asked))[:3]
    return ", ".join(
        f"{kind}:{each} ({chips(each)} chip{'s' * (chips(each) > 1)})"
        for each in sorted(nearest, key=chips)
    )


def of_type(name: str) -> str:
    """What a gcloud accelerator type is called here: "v5p-128" -> "v5p:4x4x4"; "" for what is
    none, or has no listed shape."""
    found = re.fullmatch(r"(v\w+)-(\d+)", name)
    if not found or found[1] not in _TYPES:
        return ""
    kind, cores = _TYPES[found[1]]
    chips = int(found[2]) / cores
    known = [s for s in SHAPES[kind] if math.prod(map(int, s.split("x"))) == chips]
    return f"{kind}:{known[0]}" if known else ""


def _rule(known: tuple[str, ...]) -> str:
    sides = len(known[0].split("x"))
    return f"slices have {sides} sides, the first two even, up to {known[-1]}"
