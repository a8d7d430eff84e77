"""Where the metrics of a run go, as settings. Plain dataclasses, no JAX."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where a run's metrics go, and how often."""

    every_steps: int = 10
    """Updates between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Whether TensorBoard events are written too."""
    wandb: str = ""
    """Weights & Biases project; "" = off. It needs pip install -e .[wandb]."""
