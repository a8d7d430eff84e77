"""muP's learning rates: which parameters learn slower in a wider model, and by how much."""

import dataclasses
from collections.abc import Mapping

from gesso.models.config import GPTConfig, ModelConfig
from gesso.pretrain.config import OptimizerConfig

_WIDTHS = frozenset(
    "DNF"
)  # dims that grow with a model's width; heads do, a head's own dim does not


def rates(
    config: OptimizerConfig, model: ModelConfig, letters: Mapping[str, str]
) -> OptimizerConfig:
    """`config` with muP's multipliers for a model of these parameters, {name: letters}; as it is
    where the model does not ask for muP.

    Adam in table 3 of https://arxiv.org/abs/2203.03466: weights between two dims that grow with the
    width, and the head, learn with the rate times base width / width; embeddings, biases and norms
    with the rate. The decoupled weight decay follows each parameter's rate.
    """
    if not isinstance(model, GPTConfig) or not model.mup_base:
        return config
    slower = {name: model.narrowing if grows(name, each) else 1.0 for name, each in letters.items()}
    return dataclasses.replace(config, multipliers=slower)


def grows(name: str, letters: str) -> bool:
    """Whether what a parameter adds up grows with the width: of hidden weights and of the head."""
    return name == "head_table" or len(_WIDTHS & set(letters)) > 1
