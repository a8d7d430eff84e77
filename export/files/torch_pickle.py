"""The description of tensors in a PyTorch file, read without a machine that could run it.

data.pkl is a program of stack operations. Python's own `pickle` would execute it; here the
operations are only parsed (pickletools), and those that describe tensors by name are followed by
hand: dicts, lists, tuples, numbers, strings, storages, and the two functions of torch that say
where a tensor lies. Whatever else the program names is refused.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gesso.export.files.tensors import FolderError

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Storage:
    """`count` values of a type, in the zip's entry data/KEY."""

    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor: `shape` values of a storage, `strides` apart, from `offset` on."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def describe(program: bytes, *, source: str) -> Any:
    """What data.pkl describes: nested dicts and lists of `Stored`, numbers and strings.

    Raises FolderError where it names anything that is no tensor, ValueError (of several kinds)
    where it is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        start = next(i for i in reversed(range(len(stack))) if stack[i] is _MARK)
        found = stack[start + 1 :]
        del stack[start:]
        return found

    argument: Any
    for code, argument, _ in pickletools.genops(program):
        name = code.name
        if name in _NOTHING:
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "GLOBAL":
            stack.append(_look_up(argument, source))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_look_up(f"{stack[-2]} {stack[-1]}", source)]
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            stack[-2:] = [_BUILDERS[stack[-2]](*stack[-1])]
        elif name in ("SETITEM", "SETITEMS"):
            items = above_mark() if name == "SETITEMS" else [stack.pop() for _ in "kv"][::-1]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = above_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name == "BUILD":
            stack.pop()  # what torch hangs on its OrderedDict: versions of modules
        else:
            raise _refusal(source, f"the operation {name}")
    raise ValueError("it ends in the middle")


_MARK = object()
_NOTHING = {"PROTO", "FRAME"}
_CONSTANTS = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_ARGUMENTS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
}


@dataclass(frozen=True)
class _Named:
    """A function or class that data.pkl names and we know: never itself, only its name."""

    module: str
    name: str


def _look_up(spelled: str, source: str) -> Any:
    module, _, name = spelled.partition(" ")
    if module in ("torch", "torch.storage") and name in STORAGES:
        return STORAGES[name]
    if (named := _Named(module, name)) in _BUILDERS:
        return named
    raise _refusal(source, f"{module}.{name}")


def _refusal(source: str, what: str) -> FolderError:
    return FolderError(
        f"{source} is a pickle that asks for {what}, which describes no tensor: such a file can run"
        " any code where it is loaded, so it is not read; convert it to safetensors where you"
        " trust it"
    )


def _storage(reference: Any) -> Storage:
    kind, dtype, key, _, count = reference
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
        raise ValueError(f"a reference to {kind!r} that is not a storage")
    return Storage(dtype, key, _natural(count))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Stored:
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    sizes, steps = tuple(map(_natural, shape)), tuple(map(_natural, strides))
    return Stored(storage, _natural(offset), sizes, steps)


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a size belongs")
    return value


_BUILDERS: dict[Any, Any] = {
    _Named("collections", "OrderedDict"): lambda *pairs: {},
    _Named("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Named("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
}
