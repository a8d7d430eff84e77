"""An ONNX graph under construction: values, nodes, weights kept in a file beside it, open sizes."""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gesso.export.files.tensors import FolderError

OPSET, IR_VERSION = 18, 9
# Weights begin at multiples of this in their file, so that readers can map it.
ALIGNMENT = 4096


@dataclass(frozen=True)
class Weight:
    """A part of the file of weights: float32, from byte `offset` on."""

    name: str
    offset: int


@dataclass(frozen=True)
class Value:
    """An array of the program. what: a tensor's name, a constant, or a weight. shape: its dims,
    numbers or names of open sizes ("b", "l"), of which one may be 1 where the program has more: the
    operators here broadcast, and only `Graph.whole` makes such a dim what the program says."""

    what: str | np.ndarray | Weight
    shape: tuple[int | str, ...]


class Graph:
    """Nodes in order. `weights` is the file that weights are written to, named `location`."""

    def __init__(self, weights: BinaryIO, *, location: str) -> None:
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._tensors: dict[Any, Any] = {}
        self._sizes: dict[str, str] = {}
        self._shapes: dict[tuple[int | str, ...], str] = {}
        self._file, self._location, self._count = weights, location, 0

    def input(self, name: str, shape: Sequence[int | str]) -> Value:
        """An int64 input; its open sizes can be used from here on. The value is int32."""
        from onnx import TensorProto, helper

        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, list(shape)))
        for axis, size in enumerate(shape):
            if isinstance(size, str) and size not in self._sizes:
                self._sizes[size] = self.node("Shape", name, start=axis, end=axis + 1)
        return Value(self.node("Cast", name, to=TensorProto.INT32), tuple(shape))

    def output(self, name: str, value: Value) -> None:
        """A float32 output."""
        from onnx import TensorProto, helper

        self.nodes.append(helper.make_node("Identity", [self.tensor(value)], [name]))
        shape = list(value.shape)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, name: str, array: np.ndarray) -> Value:
        """A weight, written to the file at once."""
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array, np.float32).data)
        return Value(Weight(name, offset), array.shape)

    def node(self, kind: str, *inputs: Value | str, **attributes: Any) -> str:
        """A node with one output, whose name comes back."""
        from onnx import helper

        names = [each if isinstance(each, str) else self.tensor(each) for each in inputs]
        self._count += 1
        out = f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def tensor(self, value: Value) -> str:
        """The name of a tensor with these values."""
        what = value.what
        if isinstance(what, str):
            return what
        key: Any = (what, value.shape)
        if isinstance(what, np.ndarray):
            key = (what.dtype.str, what.shape, what.tobytes())
        if key not in self._tensors:
            made = self._inside(what) if isinstance(what, np.ndarray) else self._outside(value)
            self._tensors[key] = made
        return self._tensors[key].name

    def ints(self, *numbers: int) -> Value:
        """A constant list of int64."""
        return Value(np.array(numbers, np.int64), (len(numbers),))

    def size(self, dim: int | str) -> Value:
        """A list of one int64, the size of a dim."""
        return self.ints(dim) if isinstance(dim, int) else Value(self._sizes[dim], (1,))

    def sizes(self, shape: tuple[int | str, ...]) -> Value:
        """A list of int64, a shape."""
        if not any(isinstance(each, str) for each in shape):
            return self.ints(*shape)  # pyright: ignore[reportArgumentType]
        if shape not in self._shapes:
            parts = [self.tensor(self.size(each)) for each in shape]
            self._shapes[shape] = self.node("Concat", *parts, axis=0)
        return Value(self._shapes[shape], (len(shape),))

    def whole(self, value: Value, shape: tuple[int | str, ...]) -> Value:
        """The value with no dim left to broadcast."""
        if value.shape == shape:
            return value
        return Value(self.node("Expand", value, self.sizes(shape)), shape)

    def reshape(self, value: Value, shape: tuple[int | str, ...]) -> Value:
        """Other dims around the same values in the same order."""
        if value.shape == shape:
            return value
        if isinstance(value.what, Weight):
            return Value(value.what, shape)
        if isinstance(value.what, np.ndarray) and all(isinstance(each, int) for each in shape):
            return Value(value.what.reshape(shape), shape)  # pyright: ignore
        return Value(self.node("Reshape", value, self.sizes(shape)), shape)

    def save(self, path: Path, *, producer: str) -> None:
        """Write the graph. FolderError where it is not a sound ONNX model."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self.nodes, "gesso", self.inputs, self.outputs, list(self._tensors.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=producer,
        )
        onnx.save(model, path)
        self._file.flush()
        try:
            onnx.checker.check_model(path, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise FolderError(f"the ONNX model is not sound: {str(error)[:500]}") from None

    def _inside(self, array: np.ndarray) -> Any:
        from onnx import numpy_helper

        self._count += 1
        # np.ascontiguousarray would make a list of one out of a number.
        return numpy_helper.from_array(np.array(array, order="C"), f"constant_{self._count}")

    def _outside(self, value: Value) -> Any:
        from onnx import TensorProto

        weight = value.what
        assert isinstance(weight, Weight)
        shape: Any = value.shape
        self._count += 1
        made = TensorProto(name=f"{weight.name}.{self._count}", data_type=TensorProto.FLOAT)
        made.dims.extend(shape)
        made.data_location = TensorProto.EXTERNAL
        place: Mapping[str, Any] = {
            "location": self._location,
            "offset": weight.offset,
            "length": 4 * math.prod(shape),
        }
        for key, each in place.items():
            made.external_data.add(key=key, value=str(each))
        return made
