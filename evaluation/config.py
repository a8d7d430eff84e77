"""In-loop evaluation as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss, samples and tasks during training; a 0 in `every` switches that off.

    rows: held-out rows per component, evenly spread over all of them; 0 = all.
    sample_tokens: tokens written after each of `sample_prompts`.
    harness: tasks of lm-evaluation-harness (the extra `evaluate`), `harness_limit` examples of each
    (0 = all), those in the folder `harness_path` as YAML first.
    """

    every_steps: int = 0
    rows: int = 64
    sample_every_steps: int = 0
    sample_tokens: int = 128
    sample_prompts: tuple[str, ...] = ("def ", "The ", "import ")
    harness: tuple[str, ...] = ()
    harness_every_steps: int = 0
    harness_path: str = ""
    harness_limit: int = 200

    def problems(self) -> list[str]:
        """What cannot take effect."""
        if bool(self.harness) != bool(self.harness_every_steps):
            return [
                f"evaluation.harness {list(self.harness)} every {self.harness_every_steps} steps:"
                " give both the tasks and evaluation.harness_every_steps, or neither"
            ]
        if self.harness_path and not self.harness:
            return ["evaluation.harness_path has no effect without evaluation.harness"]
        return []
