"""BERT's and RoBERTa's published runs: sizes to the parameter, and numbers that can run."""

import jax
import pytest

from gesso import configs
from gesso.models import build
from gesso.pretrain.checks import validate


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # The published checkpoints with their pretraining heads (tied tables counted once).
        ("bert-base", 110_106_428),
        ("bert-large", 336_226_108),
        ("roberta-base", 124_697_433),
    ],
)
def test_sizes(name, parameters):
    experiment = configs.experiment(name)
    validate(experiment, devices=8)
    shapes = jax.eval_shape(build(experiment.model).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_the_two_phases_of_bert():
    experiment = configs.experiment("bert-base")
    (phase,) = experiment.phases
    assert (phase.until, experiment.steps) == (900_000, 1_000_000)
    assert (phase.length, experiment.length) == (128, 512)
    assert phase.batch == experiment.batch == 256
