"""Denoising: an encoder reads a damaged piece of text, a decoder writes what is missing."""

from collections.abc import Mapping

import numpy as np

from gesso.data.order.counter_hash import below, draw
from gesso.data.order.permutation import make_key
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Term
from gesso.objectives.config import DenoiseConfig
from gesso.objectives.denoise_spans import noise_of, sentinel_sides, span_counts
from gesso.objectives.given import ModelSettings
from gesso.objectives.two_sides import Pieces, Room, Sides, TwoSided, around


class Denoise(TwoSided):
    """T5's span corruption, the prefix language model, and the decoder alone: see DenoiseConfig.

    "spans": source and target of a piece together are the piece, exactly. Its end of document is
    never noise: it ends the source; every target ends with the end id. (T5 ends every source, also
    of a piece that is cut from the middle of a document.) Sentinel i is first_sentinel - i in every
    piece anew. "prefix", "causal": source and target joined are the piece; a target ends with the
    end id where the document ends. A piece of one token has a source of the mode, or of the end id.

    A row's corruption depends on its number and the config's seed alone.

    Terms: "nll", of every target including sentinels and the end, as in T5; "accuracy", the share
    of targets that no other id was likelier than, is only reported.
    """

    terms: Mapping[str, Term] = {
        "nll": Term(weight="lm_weight", targets="targets"),
        "accuracy": Term(weight="lm_weight", coefficient=0.0),
    }

    def __init__(
        self,
        config: DenoiseConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        room: Room | None = None,
    ):
        """Raises ValueError also for ids of sentinels, mode or start that mean something else."""
        self._key = make_key("denoise", config.seed)[0]
        super().__init__(config, tokenizer=tokenizer, model=model, room=room)
        top = config.first_sentinel
        self._first_sentinel = top if top >= 0 else self.vocab - 1
        assert tokenizer is not None and model is not None  # refused above
        if problems := _id_problems(config, self._first_sentinel, self.start, tokenizer, model):
            raise ValueError("; ".join(problems))

    def costs(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, mode = self.config, int(self.config.mode >= 0)
        if c.form == "causal":
            return np.ones_like(n), n
        if c.form == "prefix":
            written = np.where(n > 1, self._longest_suffix(n), 1)
            return np.maximum(n - 1 + mode, 1), written
        sources, targets = [], []
        for end in (0, 1):  # whether the piece ends its document, whose end is no noise
            spans = span_counts(n - end, noise_density=c.noise_density, mean_span=c.mean_span)
            sources.append(n - spans.noise + spans.count + mode)
            targets.append(spans.noise + spans.count + 1)
        return np.maximum(*sources), np.maximum(*targets)

    def row_length(self, length: int) -> int:
        """As TwoSided's. Raises ValueError when a piece may need more sentinels than there are."""
        row_length, c = super().row_length(length), self.config
        if c.form == "spans":
            tokens = np.arange(row_length - self.overhead + 1)
            spans = span_counts(tokens, noise_density=c.noise_density, mean_span=c.mean_span)
            if (most := int(spans.count.max())) > c.sentinels:
                raise ValueError(
                    f"pieces of {len(tokens) - 1} tokens have up to {most} spans, but there are"
                    f" {c.sentinels} sentinels; set --objective.sentinels {most}, or a longer"
                    " --objective.mean-span"
                )
        return row_length

    def sides(self, pieces: Pieces, row_numbers: np.ndarray) -> Sides:
        keys = draw(draw(self._key, row_numbers)[pieces.rows], pieces.numbers)
        if self.config.form == "spans":
            return self._spans(pieces, keys)
        return self._split(pieces, keys)

    def _spans(self, pieces: Pieces, keys: np.ndarray) -> Sides:
        c = self.config
        last = pieces.starts + pieces.lengths - 1
        ends = pieces.tokens[last] == self.end
        tokens = np.delete(pieces.tokens, last[ends])
        lengths = pieces.lengths - ends
        spans = span_counts(lengths, noise_density=c.noise_density, mean_span=c.mean_span)
        kept, noise = noise_of(lengths, spans, keys)
        nth = np.arange(len(kept)) - np.repeat(np.cumsum(spans.count) - spans.count, spans.count)
        source, target = sentinel_sides(tokens, kept, noise, self._first_sentinel - nth)
        modes = np.full(len(ends), c.mode >= 0)
        body = lengths - spans.noise + spans.count
        source = around(source, body, before=modes, first=c.mode, after=ends, last=self.end)
        written = spans.noise + spans.count
        target = around(
            target,
            written,
            before=np.zeros_like(ends),
            first=0,
            after=np.ones_like(ends),
            last=self.end,
        )
        return Sides(source, body + modes + ends, target, written + 1)

    def _split(self, pieces: Pieces, keys: np.ndarray) -> Sides:
        c, n = self.config, pieces.lengths
        written = n
        if c.form == "prefix":
            written = np.where(
                n > 1, 1 + below(draw(keys, np.zeros(1)), self._longest_suffix(n)), n
            )
        read = n - written
        place = np.arange(len(pieces.tokens)) - np.repeat(pieces.starts, n)
        in_source = place < np.repeat(read, n)
        modes = (read == 0) | (c.mode >= 0)
        source = around(
            pieces.tokens[in_source],
            read,
            before=modes,
            first=c.mode if c.mode >= 0 else self.end,
            after=np.zeros_like(modes),
            last=self.end,
        )
        return Sides(source, read + modes, pieces.tokens[~in_source], written)

    def _longest_suffix(self, n: np.ndarray) -> np.ndarray:
        """The most of n tokens that are written, i64[n]: all lengths from 1 to it are as likely, so
        that their mean is the noise density."""
        longest = np.rint(2 * self.config.noise_density * n).astype(np.int64) - 1
        return np.clip(longest, 1, np.maximum(n - 1, 1))


def _id_problems(
    c: DenoiseConfig, top: int, start: int, tokenizer: Tokenizer, model: ModelSettings
) -> list[str]:
    """What is wrong with the ids that stand for spans, modes and the decoder's start."""
    problems, known = [], int(tokenizer.vocab_size)
    lowest = top - c.sentinels + 1 if c.form == "spans" else top + 1
    if top >= model.vocab:
        problems.append(
            f"objective.first_sentinel {top} is outside the model's vocab of {model.vocab}"
        )
    elif lowest < known and c.form == "spans":
        problems.append(
            f"sentinels {top} down to {lowest} are also ids of the tokenizer, which has {known};"
            f" set --model.vocab {known + c.sentinels} or more, or fewer --objective.sentinels"
        )
    if lowest <= start <= top:
        problems.append(f"the decoder's start id {start} is a sentinel; set --objective.start")
    if lowest <= c.mode <= top:
        problems.append(f"objective.mode {c.mode} is a sentinel")
    elif c.mode >= model.vocab:
        problems.append(f"objective.mode {c.mode} is outside the model's vocab of {model.vocab}")
    elif 0 <= c.mode < known and tokenizer.byte_lengths[c.mode] > 0:
        problems.append(
            f"objective.mode {c.mode} stands for text in the tokenizer; take an id of {known} or"
            " more that is no sentinel"
        )
    return problems
