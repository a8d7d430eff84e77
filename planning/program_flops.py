"""The multiplications of a traced program, counted: all that the hardware executes."""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    """FLOPs of all matrix products of a (closed) jaxpr: 2 per multiply-add, loops multiplied out.

    Of a program for many devices, those of all devices together. Of a conditional, the dearest
    branch. Element-wise work is not counted: it is bound by memory, not by arithmetic; nor is what
    a Pallas kernel does: its program does not say how much of its grid it skips.
    """
    total = 0.0
    program = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    for each in program.eqns:
        if each.primitive.name == "dot_general":
            total += _product(each)
            continue
        if each.primitive.name == "pallas_call":
            continue
        times = each.params.get("length", 1) if each.primitive.name == "scan" else 1
        inner = [count_flops(sub) for sub in _inner(each)]
        if each.primitive.name == "cond":
            total += max(inner, default=0.0)
        else:
            total += times * sum(inner)
    return total


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)


def _inner(equation: Any) -> list[Any]:
    """The programs an equation calls. A custom derivative's forward and backward are already in
    place where it was differentiated, so only the first of its programs is the one that runs."""
    found = [
        leaf
        for value in equation.params.values()
        for leaf in (value if isinstance(value, (tuple, list)) else [value])
        if isinstance(leaf, (ClosedJaxpr, Jaxpr))
    ]
    return found[:1] if equation.primitive.name.startswith("custom_") else found
