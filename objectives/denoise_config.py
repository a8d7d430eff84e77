"""The settings of one denoiser of an encoder-decoder: spans, prefix or causal."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """What an encoder reads of every piece of a document, and what its decoder then writes.

    form: "spans": the encoder reads the piece with spans of it replaced by sentinels, the decoder
    writes each sentinel with the tokens it stands for (T5, https://arxiv.org/abs/1910.10683,
    section 3.1.4). "prefix": the encoder reads the beginning, the decoder writes the rest.
    "causal": the encoder reads only a mode (or an end) token, the decoder writes all.
    noise_density: the share of the piece's tokens that are written (spans, prefix). Of "prefix" it
    is the mean share: 0.5 puts the split anywhere with equal probability.
    mean_span: tokens of a span on average (spans); below 1, a share of the piece's tokens (UL2,
    https://arxiv.org/abs/2205.05131, table 1, gives some spans as such shares).
    sentinels: how many ids stand for spans: `first_sentinel` and those below it, in this order.
    first_sentinel: -1: the model's last id. (T5's is 32099, although its table has 32128 rows.)
    mode: an id put first in every source, which says the denoiser (UL2's [R], [S], [X]); -1: none.
    start: the decoder's first input; -1: the one that the model's config names.
    seed: other corruptions of the same rows.
    chunk_tokens: as CausalLMConfig.chunk_tokens.
    """

    kind: Literal["denoise"] = "denoise"
    form: Literal["spans", "prefix", "causal"] = "spans"
    noise_density: float = 0.15
    mean_span: float = 3.0
    sentinels: int = 100
    first_sentinel: int = -1
    mode: int = -1
    start: int = -1
    seed: int = 0
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = [
            f"objective.{name} must be {least} or more, not {getattr(self, name)}"
            for name, least in (
                ("sentinels", 1),
                ("first_sentinel", -1),
                ("mode", -1),
                ("start", -1),
                ("seed", 0),
                ("chunk_tokens", 0),
            )
            if getattr(self, name) < least
        ]
        if not 0 < self.noise_density < 1:
            problems.append(
                f"objective.noise_density is a share between 0 and 1, not {self.noise_density}"
            )
        if not self.mean_span > 0:
            problems.append(f"objective.mean_span must be positive, not {self.mean_span}")
        return problems
