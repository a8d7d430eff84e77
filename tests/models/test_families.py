"""The registry of families: what is entered is whole, and what a config declares is so."""

import dataclasses

import pytest

from gesso.models.config import ModelConfig
from gesso.models.facts import Facts
from gesso.models.families import FAMILIES, family
from gesso.models.network import Network


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_whole(name):
    one = family(name)
    config = one.config_class()()
    assert isinstance(config, Facts) and dataclasses.is_dataclass(config)
    assert config.family == name and not config.problems()
    network = one.network()
    assert issubclass(network, Network) and network.inputs(config)
    assert network.writes == (config.architecture in ("decoder", "encoder_decoder"))
    assert network.has_encoder == (config.architecture == "encoder_decoder")
    assert one.counts().parameters(config)["total"] > 0
    assert (one.layer_counts() is not None) == hasattr(one.counts(), "products")
    assert config.read_vocab > 0 and isinstance(config, ModelConfig)


def test_a_mistyped_family_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'seq2seq'"):
        family("seq2sec")
