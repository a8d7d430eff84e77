"""In-loop evaluation as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss during training. rows: held-out rows per component; 0 = all of them."""

    every_steps: int = 0
    rows: int = 64
    sample_every_steps: int = 0
    sample_tokens: int = 128
    sample_prompts: tuple[str, ...] = ("def ", "The ", "import ")
