"""Model shapes as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """One decoder for GPT-1, GPT-2, GPT-Neo, GPT-J and GPT-NeoX; the fields are their differences."""

    vocab: int = 256
    positions: int = 128
    layers: int = 2
    embed: int = 64
    heads: int = 4
    mlp: int = 256
