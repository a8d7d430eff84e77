"""From candidates that fit by formulas to the one to run: the first few compiled, the best kept."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from gesso.planning.depth import can_be_cut, is_written_out
from gesso.planning.search import Candidate
from gesso.pretrain.experiment import Experiment

Depth = Literal["whole", "extrapolated"]
# How many refusals by the compiler a search takes before it gives up.
TRIES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """candidate, plan: the best and its compiled plan. refused: those that the compiler refused.
    error: of memory and time, what two shallow models said over what the whole one needs, where
    the best was chosen by them."""

    candidate: Candidate
    plan: dict[str, Any]
    refused: list[Candidate]
    error: dict[str, float] | None = None


def choose(
    ranked: Sequence[Candidate],
    compiled: Callable[[Experiment, Depth], dict[str, Any]],
    *,
    count: int,
) -> Chosen | None:
    """Compile the `count` fastest by formulas, and those that need less memory instead of what is
    refused; the fastest by its compiled plan, or None where nothing was taken. ranked: by `search`.
    compiled: makes a plan (cached, or in another process)."""
    refused, made = [], []
    for each in ranked[:count]:
        depth = _depth(each.experiment, count)
        plan = compiled(each.experiment, depth)
        if plan["fits"]:
            made.append((plan["time"]["middle"], len(made), each, plan, depth))
        else:
            refused.append(each)
    if made:
        _, _, best, plan, depth = min(made)
        if depth == "whole":
            return Chosen(candidate=best, plan=plan, refused=refused)
        whole = compiled(best.experiment, "whole")
        if whole["fits"]:
            error = {
                "memory": plan["memory"]["total"] / whole["memory"]["total"] - 1,
                "time": plan["time"]["middle"] / whole["time"]["middle"] - 1,
            }
            return Chosen(candidate=best, plan=whole, refused=refused, error=error)
        refused.append(best)
    limit = min((c.estimate["memory"]["total"] for c in refused), default=0.0)
    for each in smaller(ranked, below=0.8 * limit):
        plan = compiled(each.experiment, "whole")
        if plan["fits"]:
            return Chosen(candidate=each, plan=plan, refused=refused)
        refused.append(each)
        if len(refused) >= count + TRIES:
            break
    return None


def smaller(ranked: Sequence[Candidate], *, below: float) -> Iterator[Candidate]:
    """The fastest of those that need less than `below` bytes, then the fastest of those that need
    less than four fifths of that one, and so on."""
    for each in ranked:
        total = each.estimate["memory"]["total"]
        if total < below:
            yield each
            below = 0.8 * total


def _depth(e: Experiment, count: int) -> Depth:
    return "extrapolated" if count > 1 and is_written_out(e) and can_be_cut(e) else "whole"
