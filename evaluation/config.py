"""In-loop evaluation as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss and samples during training; a 0 in `every` switches that off.

    rows: held-out rows per component, evenly spread over all of them; 0 = all.
    sample_tokens: tokens written after each of `sample_prompts`.
    """

    every_steps: int = 0
    rows: int = 64
    sample_every_steps: int = 0
    sample_tokens: int = 128
    sample_prompts: tuple[str, ...] = ("def ", "The ", "import ")
