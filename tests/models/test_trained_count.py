"""What a part of a model costs to train: names that are the model's, and the sums by hand."""

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.models import build
from gesso.models.bert.count import PREDICTED, products
from gesso.models.count import flops_per_token, parameters
from gesso.models.gpt.count import products as gpt_products
from gesso.models.trained_count import trained_flops_per_token
from gesso.models.trees import flat


def shapes_of(config):
    model = build(config)
    return {
        n: x.shape for n, x in flat(jax.eval_shape(lambda: model.init(jax.random.key(0)))).items()
    }


@pytest.mark.parametrize("name", ["debug-gpt-neo", "debug-gpt-j", "debug-gpt-neox"])
def test_the_products_of_a_decoder_are_its_weights(name):
    config = configs.experiment(name).model
    shapes = shapes_of(config)
    weights = sum(np.prod(shapes[each]) for each in gpt_products(config))
    assert weights == parameters(config)["matmul"]


@pytest.mark.parametrize("name", ["debug-bert", "finetune-qa", "finetune-tag"])
def test_the_products_of_an_encoder_are_what_it_counts(name):
    config = configs.experiment(name).model
    shapes = shapes_of(config)
    everything = trained_flops_per_token(config, 64, trained=shapes, frozen={})
    assert everything == flops_per_token(config, 64)
    # One bias frozen changes no product.
    frozen = {"embed_norm/bias": shapes["embed_norm/bias"]}
    rest = {each: shape for each, shape in shapes.items() if each not in frozen}
    almost = trained_flops_per_token(config, 64, trained=rest, frozen=frozen)
    assert almost == pytest.approx(everything)


def test_a_head_alone_takes_its_own_gradient_and_no_other():
    config = configs.experiment("debug-gpt-j").model
    shapes = shapes_of(config)
    frozen = {each: shape for each, shape in shapes.items() if each != "head_table"}
    trained = {"head_table": shapes["head_table"]}
    matmul, head = parameters(config)["matmul"], 264 * 64
    attention = flops_per_token(config, 32) - 6 * matmul
    found = trained_flops_per_token(config, 32, trained=trained, frozen=frozen)
    assert found == pytest.approx(2 * matmul + 2 * head + attention / 3)


def test_a_frozen_head_of_masked_tokens_counts_at_the_tokens_it_meets():
    config = configs.experiment("debug-bert").model
    shapes = shapes_of(config)
    frozen = {"mlm/dense/weight": shapes["mlm/dense/weight"]}
    rest = {each: shape for each, shape in shapes.items() if each not in frozen}
    saved = flops_per_token(config, 32) - (
        trained_flops_per_token(config, 32, trained=rest, frozen=frozen) or 0
    )
    assert saved == pytest.approx(2 * PREDICTED * 64 * 64)
    assert products(config)["embed"] == PREDICTED


def test_a_family_that_is_not_counted_says_so():
    config = configs.experiment("debug-t5").model
    shapes = shapes_of(config)
    first, *rest = shapes
    trained = {each: shapes[each] for each in rest}
    assert trained_flops_per_token(config, 32, trained=trained, frozen={first: ()}) is None
