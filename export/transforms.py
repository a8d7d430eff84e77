"""Changes of values that no layout can say, each with its inverse; both keep the shape."""

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


TRANSFORMS = {"same": Transform(_same, _same)}
