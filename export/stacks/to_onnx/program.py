"""JAX's own description of a function (its jaxpr) as an ONNX graph.

One function per primitive, the same numbers out: whatever a model of ours is made of, its graph is
the program that JAX runs, with rows and lengths left open. Loops over layers are written out, each
layer with its part of the stacked weights; loops whose length is open are refused.
"""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.stacks.to_onnx import products as onnx_products
from gesso.export.stacks.to_onnx.graph import Graph, Value, Weight
from gesso.export.stacks.to_onnx.shapes import SHAPES, Rule, dims_of, rows

# lax -> ONNX, where operands broadcast in both.
_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "and": "And",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_SAME = {"copy", "copy_p", "name", "optimization_barrier", "stop_gradient"}
_INLINED = {
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "jit",
    "pjit",
    "remat",
    "remat2",
    "checkpoint",
}


def add_program(graph: Graph, closed: Any, inputs: Sequence[Value]) -> list[Value]:
    """Add what a closed jaxpr computes of `inputs`. FolderError naming a primitive without rule."""
    consts = [_constant(np.asarray(each)) for each in closed.consts]
    return _run(graph, closed.jaxpr, consts, inputs)


def _run(graph: Graph, jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(each: Any) -> Value:
        return (
            _constant(np.asarray(each.val, each.aval.dtype))
            if hasattr(each, "val")
            else known[each]
        )

    for equation in jaxpr.eqns:
        made = _equation(graph, equation, [read(each) for each in equation.invars])
        known.update(zip(equation.outvars, made, strict=True))
    return [read(each) for each in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    name = equation.primitive.name
    if name in _SAME:
        return inputs
    if name == "scan":
        return _scan(graph, equation, inputs)
    if name in _INLINED:
        inner = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
        if not hasattr(inner, "consts"):  # of what is computed again: without constants
            return _run(graph, inner, [], inputs)
        return _run(graph, inner.jaxpr, [_constant(np.asarray(c)) for c in inner.consts], inputs)
    if name == "dim_as_value":
        (size,) = dims_of((equation.params["dim"],))
        return [_number(graph, equation, size)]
    if name in _ELEMENTWISE or name in ("select_n", "square", "integer_pow", "rsqrt", "erfc"):
        return [_elementwise(graph, equation, inputs)]
    shapes = [dims_of(each.aval.shape) for each in equation.invars]
    if all(
        isinstance(each.what, np.ndarray) and each.shape == shape
        for each, shape in zip(inputs, shapes, strict=True)
    ) and not any(isinstance(d, str) for d in dims_of(equation.outvars[0].aval.shape)):
        return [_constant(np.asarray(_compute(equation, inputs)))]
    if name not in RULES:
        raise FolderError(f"the ONNX writer has no rule for {name!r} of JAX, which this model uses")
    return [RULES[name](graph, equation, inputs)]


def _compute(equation: Any, inputs: Sequence[Value]) -> Any:
    """What needs no input of the graph is computed here."""
    return equation.primitive.bind(*(each.what for each in inputs), **equation.params)


def _number(graph: Graph, equation: Any, size: int | str) -> Value:
    """An open size as a number of the program."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.outvars[0].aval.dtype))
    alone = graph.node("Squeeze", graph.size(size))
    return Value(graph.node("Cast", alone, to=kind), ())


def _constant(x: np.ndarray) -> Value:
    return Value(x, x.shape)


def _elementwise(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    rank = len(equation.outvars[0].aval.shape)
    inputs = [each if each.shape else graph.reshape(each, (1,) * rank) for each in inputs]
    shape = tuple(_wider(dims) for dims in zip(*(each.shape for each in inputs), strict=True))
    given = [each.what for each in inputs if isinstance(each.what, np.ndarray)]
    if len(given) == len(inputs):
        arrays = np.broadcast_arrays(*given)
        return _constant(np.asarray(equation.primitive.bind(*arrays, **equation.params)))
    name, x = equation.primitive.name, inputs[0]
    if name in _ELEMENTWISE:
        return Value(graph.node(_ELEMENTWISE[name], *inputs), shape)
    if name == "select_n":
        which, no, yes = inputs
        return Value(graph.node("Where", which, yes, no), shape)
    if name == "square" or (name == "integer_pow" and equation.params["y"] == 2):
        return Value(graph.node("Mul", x, x), shape)
    if name == "rsqrt":
        return Value(graph.node("Reciprocal", graph.node("Sqrt", x)), shape)
    one = Value(np.ones((), equation.invars[0].aval.dtype), ())
    if name == "erfc":
        return Value(graph.node("Sub", one, graph.node("Erf", x)), shape)
    power = np.asarray(equation.params["y"], equation.invars[0].aval.dtype)
    return Value(graph.node("Pow", x, Value(power, ())), shape)


def _wider(dims: tuple[int | str, ...]) -> int | str:
    return next((each for each in dims if each != 1), 1)


def _ne(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    a, b = inputs
    rank = max(len(a.shape), len(b.shape))
    a, b = (each if each.shape else graph.reshape(each, (1,) * rank) for each in (a, b))
    shape = tuple(_wider(dims) for dims in zip(a.shape, b.shape, strict=True))
    return Value(graph.node("Not", graph.node("Equal", a, b)), shape)


def _scan(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    p = equation.params
    if not isinstance(p["length"], int):
        raise FolderError(
            f"this model reads its rows in a loop of open length ({p['length']}), which is not"
            " written as ONNX"
        )
    consts, carry = inputs[: p["num_consts"]], inputs[p["num_consts"] :][: p["num_carry"]]
    per_turn = inputs[p["num_consts"] + p["num_carry"] :]
    body, made = p["jaxpr"], []
    own = [_constant(np.asarray(each)) for each in body.consts]
    turns = range(p["length"])
    for turn in reversed(turns) if p["reverse"] else turns:
        parts = [_turn(graph, each, turn) for each in per_turn]
        out = _run(graph, body.jaxpr, own, [*consts, *carry, *parts])
        carry = out[: p["num_carry"]]
        made.append(out[p["num_carry"] :])
    if p["reverse"]:
        made.reverse()
    stacked = []
    shapes = [dims_of(each.aval.shape) for each in equation.outvars[p["num_carry"] :]]
    for each, shape in zip(zip(*made, strict=True), shapes, strict=True):
        turned = [graph.reshape(graph.whole(x, shape[1:]), (1, *shape[1:])) for x in each]
        stacked.append(Value(graph.node("Concat", *turned, axis=0), shape))
    return [*carry, *stacked]


def _turn(graph: Graph, x: Value, turn: int) -> Value:
    if isinstance(x.what, Weight):
        return graph.reshape(rows(x, turn, turn + 1), x.shape[1:])
    if isinstance(x.what, np.ndarray):
        return _constant(np.asarray(x.what[turn]))
    at = Value(np.array(turn, np.int64), ())
    return Value(graph.node("Gather", x, at, axis=0), x.shape[1:])


RULES: dict[str, Rule] = SHAPES | {
    "dot_general": onnx_products.dot_general,
    "gather": onnx_products.gather,
    "ne": _ne,
}
