"""In-loop evaluation as settings: plain dataclasses, read before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss, samples and tasks during training."""

    every_steps: int = 0
    """Updates between held-out losses; 0 = off."""
    rows: int = 64
    """Held-out rows per component, evenly spread over all of them; 0 = all."""
    sample_every_steps: int = 0
    """Updates between written samples; 0 = off."""
    sample_tokens: int = 128
    """Tokens written after each of `sample_prompts`."""
    sample_prompts: tuple[str, ...] = ("def ", "The ", "import ")
    """Texts that are continued."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness (the extra `evaluate`); () = none."""
    harness_every_steps: int = 0
    """Updates between runs of these tasks; 0 = off."""
    harness_path: str = ""
    """Folder with tasks of your own as YAML, which come before the harness's; "" = none."""
    harness_limit: int = 200
    """Examples of each task; 0 = all."""

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
