"""The order of instruction examples: data/order/passes.py with prompts that are cut to fit.

docs/instructions.md tells the whole story; docs/data_order.md that of plain text.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso.data.config import OrderConfig
from gesso.data.instructions.rows import fit, rows_of
from gesso.data.instructions.store import InstructionStore
from gesso.data.order.base import Rows
from gesso.data.order.pack import ranges
from gesso.data.order.passes import ExampleOrder


class InstructionOrder(ExampleOrder):
    """The training rows of a store of instruction examples, numbered from 0 without end.

    `components` are the clusters drawn from. Rows have "lm_weight" f32[n, T] beside what every
    order gives: what predicting each token counts for. Raises ValueError also for an objective that
    would pass over which tokens are to be predicted (overlap 0).
    """

    _proof = (("tokens", "<i4"), ("segments", "<i4"), ("lm_weight", "<f4"))

    def __init__(self, store: InstructionStore, config: OrderConfig) -> None:
        if not config.overlap:
            raise ValueError(
                f"{store.folder} holds instruction examples, for a model that predicts the next"
                " token (objective causal); masked and denoising objectives take text"
            )
        self._examples, self._room = store, config.length - config.overhead
        super().__init__(store, config, source=store)

    @property
    def cut(self) -> Mapping[str, int]:
        """{"pieces", "prompts", "targets", "tokens"}: renderings that can be drawn, those whose
        prompt or target is cut at this length, and the tokens lost."""
        return self._cut

    @functools.cached_property
    def _cut(self) -> dict[str, int]:
        tasks, drawn = self._examples.tasks, self.draws.tasks
        pieces = ranges(tasks.first[drawn], tasks.train[drawn] * self._examples.renderings)
        heads, lengths = self._examples.heads[pieces], self._examples.lengths[pieces]
        kept = fit(heads, lengths, length=self._room)
        return {
            "pieces": len(pieces),
            "prompts": int((kept.head < heads).sum()),
            "targets": int((kept.tail < lengths - heads).sum()),
            "tokens": int((lengths - kept.lengths).sum()),
        }

    @property
    def _example_settings(self) -> Mapping[str, Any]:
        examples = self.config.examples
        return {
            "weigh": examples.weigh,
            "prompt_weight": examples.prompt_weight,
            "cut": examples.cut,
        }

    def _sizes(self, pieces: np.ndarray) -> np.ndarray:
        store = self._examples
        return fit(store.heads[pieces], store.lengths[pieces], length=self._room).lengths

    def _lay_out(self, pieces: np.ndarray, counts: np.ndarray) -> Rows:
        return rows_of(
            self._examples,
            pieces,
            counts,
            length=self.config.length,
            room=self._room,
            examples=self.config.examples,
        )
