"""The settings of one denoiser: spans, prefix or causal."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """The settings of one denoiser: spans, prefix or causal."""

    kind: Literal["denoise"] = "denoise"
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        return []
