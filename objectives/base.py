"""The contract of an objective: it says what a batch is and what each position of it costs."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import jax
import numpy as np

from objectives.config import CausalLMConfig


class Objective(Protocol):
    """Never reduces: the step alone divides, by weights summed over the whole global batch.

    coefficients: what each term counts for in the loss. weights: the batch leaf, of the shape of
    the term's losses, that says what counts. overlap: tokens a row shares with the next piece of
    its document.
    """

    coefficients: Mapping[str, float]
    weights: Mapping[str, str]
    overlap: Literal[0, 1]

    def row_length(self, length: int) -> int:
        """Tokens a row of the data has when the model reads `length`."""
        ...

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of the data -> the batch, in numpy on the host."""
        ...

    def __call__(
        self, module: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{term: unreduced float32 losses} of a model merged with its params."""
        ...


def build(config: CausalLMConfig) -> Objective:
    """The objective of a config. Raises ValueError for one that cannot be."""
    if problems := config.problems():
        raise ValueError("; ".join(problems))
    from objectives.causal import CausalLM

    return CausalLM(config)
