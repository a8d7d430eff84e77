"""What is predicted, as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Next-token prediction inside each document.

    z_loss: coefficient of log(Z)^2 (PaLM, https://arxiv.org/abs/2204.02311, section 5).
    chunk_tokens: tokens of the batch whose float32 logits exist at once; 0 = all of them. A chunk
    takes part of every row, so it is rounded to whole columns of the batch.

    Raises ValueError for a negative number.
    """

    z_loss: float = 0.0
    chunk_tokens: int = 0

    def __post_init__(self) -> None:
        if self.z_loss < 0 or self.chunk_tokens < 0:
            raise ValueError(
                f"z_loss {self.z_loss} and chunk_tokens {self.chunk_tokens} cannot be negative"
            )
