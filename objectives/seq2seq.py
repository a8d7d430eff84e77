"""From source to target: documents with one separator, read before it and written after it."""

from collections.abc import Mapping

import jax
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Take, Term
from gesso.objectives.config import Seq2SeqLMConfig
from gesso.objectives.cross_entropy import Scored
from gesso.objectives.given import ModelSettings
from gesso.objectives.two_sides import Pieces, Room, Sides, TwoSided, around

_CHECKED_ROWS = 64


class Seq2SeqLM(TwoSided):
    """A document is a source, the first separator in it, and a target with the end of document.

    The source, too, is given the end id; the separator itself is in neither. A piece without a
    separator, or with an empty side, is in neither side of the batch and costs nothing; so is, as a
    rule, what a document longer than a row goes on with. "document_weight" f32[B, L] counts the
    pieces of a row (1 at place k: it has a piece k), "unpaired_weight" those that cost nothing.

    Terms: "nll", the negative log-likelihood of the targets. With label smoothing it is only
    reported and "smoothed", (1 - s) * nll + s * (the mean nll of all ids), is trained. Only
    reported are "accuracy" and "unpaired", the share of the pieces that cost nothing.
    """

    weight_leaves = ("lm_weight", "document_weight", "unpaired_weight")

    def __init__(
        self,
        config: Seq2SeqLMConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        room: Room | None = None,
    ):
        """Raises ValueError also for a separator that is not exactly one id."""
        super().__init__(config, tokenizer=tokenizer, model=model, room=room)
        assert tokenizer is not None  # refused above
        ids = tokenizer.encode(config.separator)
        if len(ids) != 1:
            raise ValueError(
                f"objective.separator {config.separator!r} is {len(ids)} ids of the store's"
                f" {tokenizer.kind} tokenizer ({list(map(int, ids))}); name a text that is exactly"
                " one and stands between source and target"
            )
        self._separator = int(ids[0])
        smoothing = config.label_smoothing
        nll = Term(weight="lm_weight", targets="targets", coefficient=0.0 if smoothing else 1.0)
        smoothed = {"smoothed": Term(weight="lm_weight")} if smoothing else {}
        self.terms: Mapping[str, Term] = {
            "nll": nll,
            **smoothed,
            "accuracy": Term(weight="lm_weight", coefficient=0.0),
            "unpaired": Term(weight="document_weight", coefficient=0.0),
        }

    def costs(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A side has at least one token beside the separator; the source has an end of its own. The
        # weights that count pieces need a place for each.
        return np.maximum(n - 1, 1), np.maximum(n - 2, 1)

    def check(self, take: Take) -> None:
        """Raises ValueError where no document of the first rows has a source and a target."""
        made = self.host_batch(take(np.arange(_CHECKED_ROWS)))
        if not made["lm_weight"].any():
            raise ValueError(
                f"none of the {int(made['document_weight'].sum()):,} documents in the first"
                f" {_CHECKED_ROWS} rows has a source, the separator {self.config.separator!r} and a"
                " target; set --objective.separator to what stands between them in this corpus"
            )

    def sides(self, pieces: Pieces, row_numbers: np.ndarray) -> Sides:
        tokens, n = pieces.tokens, pieces.lengths
        place = np.arange(len(tokens)) - np.repeat(pieces.starts, n)
        piece = np.repeat(np.arange(len(n)), n)
        separators = np.flatnonzero(tokens == self._separator)
        holding, first = np.unique(piece[separators], return_index=True)
        cut = n.copy()  # no separator: all is source, nothing target
        cut[holding] = place[separators[first]]
        ended = tokens[pieces.starts + n - 1] == self.end
        paired = (cut > 0) & (n - cut - 1 - ended > 0)
        is_source = (place < cut[piece]) & paired[piece]
        is_target = (place > cut[piece]) & paired[piece]
        read, written = cut * paired, (n - cut - 1) * paired
        source = around(
            tokens[is_source],
            read,
            before=np.zeros_like(paired),
            first=0,
            after=paired,
            last=self.end,
        )
        return Sides(source, read + paired, tokens[is_target], written)

    def weights(self, pieces: Pieces, made: Sides, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        documents, unpaired = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        documents[pieces.rows, pieces.numbers] = 1
        unpaired[pieces.rows, pieces.numbers] = made.target_lengths == 0
        return {"document_weight": documents, "unpaired_weight": unpaired}

    def values(self, scored: Scored, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        values = super().values(scored, batch) | {"unpaired": batch["unpaired_weight"]}
        if s := self.config.label_smoothing:
            values["smoothed"] = (1 - s) * scored.nll_BL + s * scored.mean_nll_BL
        return values
