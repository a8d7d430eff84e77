"""What changes the shape of a JAX program's values, or what they are kept as, in ONNX nodes."""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.stacks.to_onnx.graph import Graph, Value, Weight

Rule = Callable[[Graph, Any, list[Value]], Value]


def dims_of(shape: Sequence[Any]) -> tuple[int | str, ...]:
    """A shape of JAX, its open sizes by name."""
    dims = tuple(each if isinstance(each, int) else str(each) for each in shape)
    if odd := [each for each in dims if isinstance(each, str) and not each.isidentifier()]:
        raise FolderError(f"a size of {odd[0]} cannot be written into an ONNX graph")
    return dims


def _broadcast(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    """Dims of 1 alone; who needs more asks for them (Graph.whole)."""
    (x,), target = inputs, dims_of(equation.outvars[0].aval.shape)
    shape: list[int | str] = [1] * len(target)
    for ours, axis in zip(x.shape, equation.params["broadcast_dimensions"], strict=True):
        shape[axis] = ours
    return graph.reshape(x, tuple(shape))


def _cast(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    from onnx import helper

    (x,), to = inputs, np.dtype(equation.params["new_dtype"])
    if np.dtype(equation.invars[0].aval.dtype) == to:
        return x
    kind = helper.np_dtype_to_tensor_dtype(to)
    return Value(graph.node("Cast", x, to=kind), x.shape)


def _iota(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    shape, axis = dims_of(equation.params["shape"]), equation.params["dimension"]
    dtype = np.dtype(equation.params["dtype"])
    zero, one = (Value(np.array(n, np.int64), ()) for n in (0, 1))
    stop = graph.node("Squeeze", graph.size(shape[axis]))
    counted = Value(graph.node("Range", zero, stop, one), (shape[axis],))
    from onnx import helper

    cast = graph.node("Cast", counted, to=helper.np_dtype_to_tensor_dtype(dtype))
    narrow = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    return graph.reshape(Value(cast, (shape[axis],)), narrow)


def _reshape(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    x = graph.whole(inputs[0], dims_of(equation.invars[0].aval.shape))
    return graph.reshape(x, dims_of(equation.outvars[0].aval.shape))


def _squeeze(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    gone = equation.params["dimensions"]
    shape = tuple(each for axis, each in enumerate(inputs[0].shape) if axis not in gone)
    return graph.reshape(inputs[0], shape)


def _transpose(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    order = equation.params["permutation"]
    shape = tuple(inputs[0].shape[axis] for axis in order)
    return Value(graph.node("Transpose", inputs[0], perm=list(order)), shape)


def _slice(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    x, p = inputs[0], equation.params
    if isinstance(x.what, Weight) and (part := _part(x, p)) is not None:
        return part
    sizes = dims_of(equation.invars[0].aval.shape)
    starts, stops = dims_of(p["start_indices"]), dims_of(p["limit_indices"])
    steps = p["strides"] or (1,) * len(sizes)
    cut = [
        axis
        for axis, size in enumerate(sizes)
        if (starts[axis], stops[axis], steps[axis]) != (0, size, 1)
    ]
    whole = graph.whole(x, sizes)

    def along(dims: Sequence[int | str]) -> Value:
        return graph.sizes(tuple(dims[axis] for axis in cut))

    out = graph.node("Slice", whole, along(starts), along(stops), graph.ints(*cut), along(steps))
    return Value(out, dims_of(equation.outvars[0].aval.shape))


def _part(x: Value, p: Mapping[str, Any]) -> Value | None:
    """A run along the first dim of a weight is a weight further on in the file."""
    shape: Any = x.shape
    starts, stops = p["start_indices"], p["limit_indices"]
    if p["strides"] or tuple(zip(starts, stops, strict=True))[1:] != tuple(
        (0, n) for n in shape[1:]
    ):
        return None
    return rows(x, starts[0], stops[0])


def rows(x: Value, start: int, stop: int) -> Value:
    assert isinstance(x.what, Weight)
    shape: Any = x.shape
    step = 4 * int(np.prod(shape[1:]))
    name = x.what.name if stop - start == shape[0] else f"{x.what.name}.{start}"
    return Value(Weight(name, x.what.offset + start * step), (stop - start, *shape[1:]))


def _concatenate(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    whole = [
        graph.whole(x, dims_of(each.aval.shape))
        for x, each in zip(inputs, equation.invars, strict=True)
    ]
    axis = equation.params["dimension"]
    return Value(graph.node("Concat", *whole, axis=axis), dims_of(equation.outvars[0].aval.shape))


def _stack(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    axis, parts = equation.params["axis"], []
    for x, each in zip(inputs, equation.invars, strict=True):
        x = graph.whole(x, dims_of(each.aval.shape))
        parts.append(graph.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])))
    return Value(graph.node("Concat", *parts, axis=axis), dims_of(equation.outvars[0].aval.shape))


def _reduce(kind: str) -> Rule:
    def rule(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
        x = graph.whole(inputs[0], dims_of(equation.invars[0].aval.shape))
        axes = graph.ints(*equation.params["axes"])
        return Value(graph.node(kind, x, axes, keepdims=0), dims_of(equation.outvars[0].aval.shape))

    return rule


SHAPES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _cast,
    "iota": _iota,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
}
