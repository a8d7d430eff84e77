"""Models rewritten for stacks with fewer variations compute what they did."""

import dataclasses

import jax
import numpy as np
import pytest
from foreign_folders import CONFIGS, SHAPE, random_params

from gesso.export import FolderError
from gesso.export.agreement import outputs, probe
from gesso.export.stacks import plainer
from gesso.models import GPTConfig

EVERYTHING = GPTConfig(
    **SHAPE,
    mlp=20,
    position_encoding="rotary",
    rotary_dims=4,
    attention_scale="layer",
    pattern=("global", "local"),
    window=24,
    biases=("mlp",),
    block="parallel",
)


def test_every_change_together_leaves_the_outputs_alone():
    params = random_params(EVERYTHING)
    config, said = plainer.global_attention(EVERYTHING, params)
    config, said = plainer.scale_by_head_dim(config, said)
    config, said = plainer.turn_by_halves(config, said)
    config, said = plainer.with_biases(config, said, ("mlp", "qkv", "attention_out", "head"))
    config, said = plainer.with_own_head(config, said)
    assert config == dataclasses.replace(
        EVERYTHING,
        pattern=("global",),
        window=0,
        attention_scale="head_dim",
        rotation="half",
        biases=("mlp", "qkv", "attention_out", "head"),
        head="untied",
    )
    batch = probe(EVERYTHING)
    ours, theirs = outputs(EVERYTHING, params, batch), outputs(config, said, batch)
    assert np.abs(ours["logits"] - theirs["logits"]).max() <= 1e-5 * np.abs(ours["logits"]).max()


@pytest.mark.parametrize("scale", ["none", "layer", "head_dim_and_layer"])
def test_queries_hold_what_the_scale_was(scale):
    config = dataclasses.replace(CONFIGS["gpt2"], attention_scale=scale)
    params = random_params(config)
    plain, said = plainer.scale_by_head_dim(config, params)
    assert plain.attention_scale == "head_dim"
    divided = np.array([1.0, 2.0]) if "layer" in scale else np.ones(2)
    grown = 1.0 if scale == "head_dim_and_layer" else 2.0  # sqrt of the head dim, 4
    for name in ("q", "q_bias"):
        x, y = (each["blocks"]["attention"][name] for each in (params, said))
        factor = (grown / divided).reshape(-1, *[1] * (x.ndim - 1))
        assert np.allclose(y, x * factor, rtol=1e-6) and y.dtype == x.dtype
    assert said["blocks"]["attention"]["k"] is params["blocks"]["attention"]["k"]


def test_what_is_plain_stays_the_same_arrays():
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    for change in (plainer.global_attention, plainer.scale_by_head_dim, plainer.turn_by_halves):
        plain, said = change(config, params)
        assert plain == config
        same = jax.tree.map(lambda x, y: x is y, params, said)
        assert all(jax.tree.leaves(same))


def test_a_window_that_matters_is_refused():
    config = dataclasses.replace(EVERYTHING, window=23)
    with pytest.raises(FolderError, match=r"a window of 23\) changes rows of up to 24 tokens"):
        plainer.global_attention(config, {})


def test_an_encoder_alone_keeps_its_features():
    config, params = CONFIGS["roberta-classify"], random_params(CONFIGS["roberta-classify"])
    alone, said = plainer.encoder_alone(config, params, keep=("pooler",))
    assert (alone.positions, alone.first_position, alone.outputs) == (20, 0, ("pooler",))
    assert said.keys() == {"embed", "positions", "token_types", "embed_norm", "blocks", "pooler"}
    batch = probe(config)
    ours, theirs = outputs(config, params, batch), outputs(alone, said, batch)
    assert theirs.keys() == {"features", "pooled"}
    for name, x in theirs.items():
        assert np.abs(ours[name] - x).max() <= 1e-5
    assert "pooler" not in plainer.encoder_alone(config, params)[1]
