"""Products and table look-ups of a JAX program as ONNX nodes."""

import math
import string
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.stacks.to_onnx.graph import Graph, Value, Weight
from gesso.export.stacks.to_onnx.shapes import dims_of


def dot_general(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    """A product with a weight is one MatMul, as is attention's; anything else an Einsum."""
    (summed_a, summed_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    a, b = (_whole(graph, x, each.aval) for x, each in zip(inputs, equation.invars, strict=True))
    free_a = _rest(a, summed_a, batch_a)
    free_b = _rest(b, summed_b, batch_b)
    shape = (
        *(a.shape[axis] for axis in (*batch_a, *free_a)),
        *(b.shape[axis] for axis in free_b),
    )
    if not batch_a and isinstance(b.what, Weight | np.ndarray):
        made = _with_weight(graph, a, b, summed_a, summed_b, free_a, free_b, shape)
        if made is not None:
            return made
    if len(free_a) == len(free_b) == len(summed_a) == 1:
        a = _order(graph, a, [*batch_a, *free_a, *summed_a])
        b = _order(graph, b, [*batch_b, *summed_b, *free_b])
        return Value(graph.node("MatMul", a, b), shape)
    return Value(graph.node("Einsum", a, b, equation=_letters(equation)), shape)


def gather(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    """Rows of a table, or chosen places of a dim. An index outside is an error of the runtime."""
    table, indices = inputs
    p, dims = equation.params, equation.params["dimension_numbers"]
    rank = len(equation.outvars[0].aval.shape)
    axes = dims.start_index_map
    sizes = [size for axis, size in enumerate(equation.invars[0].aval.shape) if axis not in axes]
    taken = [size for axis, size in enumerate(p["slice_sizes"]) if axis not in axes]
    first = indices.what
    if not dims.collapsed_slice_dims and len(axes) == 1 and isinstance(first, np.ndarray):
        return _run_of(graph, equation, table, axes[0], int(first.item()))
    if len(axes) != 1 or tuple(dims.collapsed_slice_dims) != tuple(axes) or taken != sizes:
        raise FolderError(f"a gather like {dims} is not written as ONNX")
    if dims.operand_batching_dims:
        raise FolderError("a gather with a batch dim is not written as ONNX")
    (axis,) = axes
    indices = _whole(graph, indices, equation.invars[1].aval)
    at = graph.reshape(indices, indices.shape[:-1])
    table = _whole(graph, table, equation.invars[0].aval)
    shape = (*table.shape[:axis], *at.shape, *table.shape[axis + 1 :])
    made = Value(graph.node("Gather", table, at, axis=axis), shape)
    # ONNX puts the indices' dims where the axis was, JAX where offset_dims are not.
    chosen = [each for each in range(rank) if each not in dims.offset_dims]
    here = list(range(axis, axis + len(at.shape)))
    others = [each for each in range(rank) if each not in here]
    order = [0] * rank
    for to, source in (
        *zip(chosen, here, strict=True),
        *zip(dims.offset_dims, others, strict=True),
    ):
        order[to] = source
    return _order(graph, made, order)


def _run_of(graph: Graph, equation: Any, table: Value, axis: int, start: int) -> Value:
    """Places from `start` on, as x[:, :n] is said where a size is open."""
    size = equation.params["slice_sizes"][axis]
    table = _whole(graph, table, equation.invars[0].aval)
    places = (graph.ints(each) for each in (start, start + size, axis))
    shape = (*table.shape[:axis], size, *table.shape[axis + 1 :])
    return Value(graph.node("Slice", table, *places), shape)


def _with_weight(
    graph: Graph,
    a: Value,
    b: Value,
    summed_a: Any,
    summed_b: Any,
    free_a: list[int],
    free_b: list[int],
    shape: tuple[int | str, ...],
) -> Value | None:
    """a's last dims times a matrix, where the weight's summed dims are its first or its last."""
    inner, outer = (math.prod(_numbers(b, each)) for each in (summed_b, free_b))
    rank, first = len(b.shape), tuple(range(len(summed_b)))
    if list(summed_a) != list(range(len(free_a), len(a.shape))) or not free_a:
        return None
    if tuple(summed_b) == first:
        matrix = graph.reshape(b, (inner, outer))
    elif tuple(summed_b) == tuple(range(rank - len(summed_b), rank)):
        flat = graph.reshape(b, (outer, inner))
        matrix = Value(graph.node("Transpose", flat, perm=[1, 0]), (inner, outer))
    else:
        return None
    kept = tuple(a.shape[axis] for axis in free_a)
    rows = graph.reshape(a, (*kept, inner))
    made = Value(graph.node("MatMul", rows, matrix), (*kept, outer))
    return graph.reshape(made, shape)


def _whole(graph: Graph, x: Value, aval: Any) -> Value:
    return graph.whole(x, dims_of(aval.shape))


def _rest(x: Value, summed: Any, batch: Any) -> list[int]:
    return [axis for axis in range(len(x.shape)) if axis not in (*summed, *batch)]


def _numbers(x: Value, axes: Any) -> list[Any]:
    return [x.shape[axis] for axis in axes]


def _order(graph: Graph, x: Value, order: list[int]) -> Value:
    if order == sorted(order):
        return x
    return Value(graph.node("Transpose", x, perm=order), tuple(x.shape[axis] for axis in order))


def _letters(equation: Any) -> str:
    """dot_general's dims as an equation of letters."""
    (summed_a, summed_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    free = iter(string.ascii_letters)
    a = [next(free) for _ in equation.invars[0].aval.shape]
    b = [next(free) for _ in equation.invars[1].aval.shape]
    for ours, theirs in (
        *zip(summed_a, summed_b, strict=True),
        *zip(batch_a, batch_b, strict=True),
    ):
        b[theirs] = a[ours]
    out = [a[axis] for axis in batch_a]
    out += [each for axis, each in enumerate(a) if axis not in (*summed_a, *batch_a)]
    out += [each for axis, each in enumerate(b) if axis not in (*summed_b, *batch_b)]
    return f"{''.join(a)},{''.join(b)}->{''.join(out)}"
