"""What the published decoders' experiments share: precision, objective, checkpoints, decay."""

from typing import Any

from gesso.evaluation.config import EvaluationConfig
from gesso.objectives.config import CausalLMConfig
from gesso.pretrain.config import CheckpointConfig, PrecisionConfig
from gesso.pretrain.experiment import Experiment

BFLOAT16 = PrecisionConfig(params="float32", compute="bfloat16")
MATRICES = ("*bias", "*norm*")  # what none of these recipes decays
PILE = "stores/pile-gpt2"


def recipe(name: str, **settings: Any) -> Experiment:
    """A decoder's experiment, in bfloat16, with checkpoints and evaluations every 1000 steps."""
    return Experiment(
        name=name,
        objective=CausalLMConfig(chunk_tokens=settings["batch"] * 128),
        precision=BFLOAT16,
        checkpoint=CheckpointConfig(every_steps=1000, keep_last=3, keep_every_steps=10_000),
        evaluation=EvaluationConfig(every_steps=1000, sample_every_steps=10_000),
        **settings,
    )
