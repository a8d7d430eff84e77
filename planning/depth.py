"""A deep model's plan from two shallow ones: what the compiler says is linear in the layers.

Of a loop over layers a compiler's time does not depend on their number, so whole programs are
compiled there; of layers written out one after another it does, and two shallow programs are
compiled instead.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gesso.pretrain.experiment import Experiment

# Turns of the loop: one of a single turn is no loop to the compiler.
SHALLOW = (2, 4)


def depths_of(e: Experiment) -> dict[str, int]:
    """{setting of the model: layers} of all its stacks; empty where they cannot be cut."""
    names = ("layers", "encoder_layers", "decoder_layers")
    own = {each.name for each in dataclasses.fields(e.model)}
    found = {name: getattr(e.model, name) for name in names if name in own}
    return {} if e.model.reads_in_turn else found


def can_be_cut(e: Experiment) -> bool:
    """Whether two shallow models are smaller than this one, and have its pattern of layers."""
    depths = depths_of(e)
    if e.first_layer or e.stages:
        return False
    return bool(depths) and len(set(depths.values())) == 1 and turns_of(e) > SHALLOW[1]


def is_written_out(e: Experiment) -> bool:
    """Whether the layers stand one after another in the program, rather than in a loop."""
    return e.model.unroll >= _periods(e) > 1


def cut(e: Experiment, *, turns: int) -> Experiment:
    """The experiment with this many turns of its loop over layers."""
    layers = dict.fromkeys(depths_of(e), turns * _turn(e))
    model = dataclasses.replace(e.model, **layers)
    if is_written_out(e):
        model = dataclasses.replace(model, unroll=turns)
    return dataclasses.replace(e, model=model)


def extrapolate(low: Mapping[str, Any], high: Mapping[str, Any], *, turns: float) -> dict[str, Any]:
    """The compiled part of a plan for `turns` turns of the loop over layers from those for SHALLOW
    of them: "memory" with "compiled", "collectives", "estimated_cycles". A refusal of either is
    one."""
    for each in (low, high):
        if "refused" in each:
            return {"refused": each["refused"], "fits": False}

    def line(first: float, second: float) -> float:
        a, b = SHALLOW
        return max(0.0, first + (second - first) * (turns - a) / (b - a))

    ends = low["memory"]["compiled"], high["memory"]["compiled"]
    compiled = {name: line(size, ends[1][name]) for name, size in ends[0].items()}
    shallow, deep = (_by_kind(each["collectives"]) for each in (low, high))
    sent = []
    for key in dict.fromkeys([*deep, *shallow]):
        made = copy.deepcopy(deep.get(key) or shallow[key])
        for name in ("count", "payload_bytes", "wire_bytes"):
            counts = [found.get(key, {}).get(name, 0.0) for found in (shallow, deep)]
            made[name] = line(*counts)
        sent.append(made)
    return {
        "memory": {"compiled": compiled},
        "collectives": sorted(sent, key=lambda each: -each["wire_bytes"]),
        "estimated_cycles": line(low["estimated_cycles"], high["estimated_cycles"]),
    }


def turns_of(e: Experiment) -> float:
    """Of the loop over layers; of layers that are written out, how many turns it would have."""
    return max(depths_of(e).values(), default=0) / _turn(e)


def _turn(e: Experiment) -> int:
    """Layers of one turn."""
    return _period(e) * (1 if is_written_out(e) else e.model.unroll)


def _periods(e: Experiment) -> int:
    return max(depths_of(e).values(), default=0) // _period(e)


def _period(e: Experiment) -> int:
    return len(e.model.period)


def _by_kind(found: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    names = ("kind", "group", "asynchronous", "axes", "network")
    return {tuple(each[name] for name in names): each for each in found}
