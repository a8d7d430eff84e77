"""What came of a checkpoint in a client: a figure, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Outcome = Literal["measured", "refused", "failed", "not run"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """apart: the largest difference of an output, where measured. of: which outputs, and what else
    was the same. why: where there is no figure. versions: of the client."""

    outcome: Outcome
    apart: float = 0.0
    of: str = ""
    why: str = ""
    versions: str = ""


class Differs(RuntimeError):
    """A client gives something else than we do. The message says what."""


def figure(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    *,
    bound: float,
    versions: str,
    same: tuple[str, ...] = (),
) -> Figure:
    """Of the outputs that both have; same: what was found to be equal besides.

    Raises Differs where none is in common, one has another shape or they are over `bound` apart.
    """
    both = [name for name in ours if name in theirs]
    if not both:
        raise Differs(f"no output in common: {sorted(ours)} and {sorted(theirs)}")
    apart = {}
    for name in both:
        if ours[name].shape != theirs[name].shape:
            shapes = f"{list(ours[name].shape)} here and {list(theirs[name].shape)} there"
            raise Differs(f"{name} has shape {shapes}")
        apart[name] = float(np.abs(ours[name] - theirs[name]).max())
    worst = max(apart, key=lambda name: float("inf") if np.isnan(apart[name]) else apart[name])
    if not apart[worst] <= bound:
        raise Differs(f"{worst} is {apart[worst]:.1e} apart, and {bound:.0e} is allowed")
    return Figure(
        outcome="measured", apart=apart[worst], of=", ".join([*both, *same]), versions=versions
    )
