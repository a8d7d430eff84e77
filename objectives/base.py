"""The contract of an objective: it says what a batch is and what each position of it costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import numpy as np

from gesso.data.config import FrameConfig
from gesso.objectives.given import Module

# The rows of a data order by their numbers, as Order.take gives them.
Take = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One quantity that an objective gives for every position.

    weight: the batch leaf, of the shape of the term's values, that says what counts.
    coefficient: what the term's mean counts for in the loss; 0: it is only reported.
    targets: the batch leaf of token ids that the term is the negative log-likelihood of (nats), if
    it is one: held-out perplexity and the unigram baseline are given for it.
    """

    weight: str
    coefficient: float = 1.0
    targets: str | None = None


class Objective(Protocol):
    """What the step asks of an objective, with the defaults of most; an objective names it as its
    base class. It never reduces: the step alone divides, by weights summed over the whole global
    batch.

    terms: what `__call__` gives, by name; the first is the negative log-likelihood that reports and
    held-out figures are led by. overlap: tokens a row shares with the next piece of its document.
    overhead: tokens of a row's length that the objective needs for itself in every piece of a
    document (BERT's [CLS] and [SEP]). letters: the batch leaves that are not "B" or "BL".
    carry: where a model remembers from batch to batch, what it leaves to the next one: {name:
    letters}, float32 arrays that begin as zeros, whose sizes are the model's and the batch's (B).
    The step then calls `carried` in place of `__call__`. Empty for most.
    companions: whether rows come with rows of other documents ("other_tokens", ...), as next
    sentence prediction needs. framing: how labelled examples become rows, of TASKS alone (None of
    others); these also have `scored`, which gives what `__call__` does and what is predicted.
    whole_texts: whether every token of a document but its first is a target of the first term; None
    means that it is so where rows overlap.
    """

    terms: Mapping[str, Term]
    overlap: Literal[0, 1]
    overhead: int
    letters: Mapping[str, str]
    companions: bool
    carry: Mapping[str, str] = {}
    framing: FrameConfig | None = None
    whole_texts: bool | None = None

    def check(self, take: Take) -> None:
        """Raise ValueError where a corpus is not what the objective needs (a separator in every
        document), by its first rows. take: Order.take."""

    def row_length(self, length: int) -> int:
        """Tokens a row of the data has when the model reads `length`."""
        ...

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of the data -> the batch, in numpy on the host. Row by row: what a row becomes
        depends on its tokens and its number ("row") alone. Shapes depend on the row length alone.
        Every batch has "tokens" and "component"; leaves named "*segments" are 0 at padding."""
        ...

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{term: unreduced float32 values} of a model merged with its params."""
        ...

    def call_with_carry(
        self,
        module: Module,
        batch: Mapping[str, jax.Array],
        key: jax.Array | None,
        carry: Mapping[str, jax.Array],
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """What `__call__` gives of rows that go on from `carry`, and the carry after them. Called
        where `carry` names something."""
        raise NotImplementedError(f"{type(self).__name__} carries nothing from batch to batch")
