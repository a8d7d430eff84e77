"""What goes with shared keys and an own width of the table: adapters in the cache, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES

from gesso import configs
from gesso.models import build
from gesso.models.adapters.adapters import adapter_problems, bind, init, letters_of
from gesso.models.adapters.config import AdapterConfig
from gesso.models.trees import flat
from gesso.pretrain.checks import validate
from gesso.pretrain.experiment import ExperimentError

ADAPTERS = {
    "lora": AdapterConfig(kind="lora", targets=("*attention/k", "*mlp/*"), rank=2),
    "prefix": AdapterConfig(kind="prefix", tokens=3),
    "prompt": AdapterConfig(kind="prompt", tokens=3),
    "ia3": AdapterConfig(kind="ia3"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", ["llama", "opt_350m"])
def test_an_adapted_model_decodes_as_it_reads(name, kind):
    model, adapter = build(FAMILIES[name]), ADAPTERS[kind]
    if problems := adapter_problems(adapter, model.config, model.letters):
        assert (name, kind) == ("opt_350m", "prompt") and "model.word_embed" in problems[0]
        return
    params = model.init(jax.random.key(0))
    arrays = init(adapter, jax.random.key(1), params, model.letters)
    letters = letters_of(adapter, model.letters)
    for path, array in flat(arrays).items():
        assert array.ndim == len(flat(letters)[path])
    bound = bind(params, jax.tree.map(lambda x: x + 0.1, arrays), adapter)
    tokens = np.arange(20, dtype=np.int32).reshape(2, 10)
    whole = model.apply(bound, {"tokens": tokens})["logits"]
    cache, parts = model.init_cache(2, 16), []
    assert cache.k_ZBSKH.shape[3] == model.config.sizes[model.config.key_letter]
    for part in (tokens[:, :6], tokens[:, 6:]):
        logits, cache = model.decode(bound, cache, {"tokens": part})
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-6)


def test_a_mesh_divides_the_shared_keys_too():
    split = {"mesh.data": 1, "mesh.tensor": 4, "layout": "tensor"}
    with pytest.raises(ExperimentError, match="model.key_heads 2 does not divide over mesh axis"):
        validate(configs.experiment("debug-llama", split), devices=4)
