"""What is predicted, as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Next-token prediction inside each document.

    z_loss: coefficient of log(Z)^2 (PaLM, https://arxiv.org/abs/2204.02311, section 5).
    chunk_tokens: tokens whose float32 logits exist at once; 0 = all of them at once.
    """

    z_loss: float = 0.0
    chunk_tokens: int = 0
