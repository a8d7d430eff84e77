"""Next-token prediction: which tokens count, and that every one of them counts once."""

import jax
import numpy as np
import pytest

from gesso.models import GPTConfig, build
from gesso.objectives import CausalLM, CausalLMConfig, Term
from gesso.objectives import build as build_objective

ROWS = {
    "tokens": np.array([[5, 6, 7, 8, 9, 3, 0], [1, 2, 3, 4, 5, 6, 7]], np.int32),
    "segments": np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32),
    "positions": np.array([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]], np.int32),
    "component": np.array([3, 0], np.int32),
}


def test_the_batch_says_what_counts():
    batch = CausalLM(CausalLMConfig()).host_batch(ROWS)
    want = {
        "tokens": [[5, 6, 7, 8, 9, 3], [1, 2, 3, 4, 5, 6]],
        "targets": [[6, 7, 0, 9, 0, 0], [2, 3, 4, 5, 6, 7]],
        "segments": [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]],
        "positions": [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]],
        "lm_weight": [[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]],
        "component": [3, 0],
    }
    assert {name: leaf.tolist() for name, leaf in batch.items()} == want
    types = {name: leaf.dtype for name, leaf in batch.items()}
    assert types == dict.fromkeys(want, np.int32) | {"lm_weight": np.float32}
    assert all(isinstance(leaf, np.ndarray) for leaf in batch.values())


def test_every_token_but_a_documents_first_is_a_target_once():
    batch = CausalLM(CausalLMConfig()).host_batch(ROWS)
    documents = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5, 6, 7]]
    targets = batch["targets"][batch["lm_weight"] > 0]
    assert sorted(targets) == sorted(token for each in documents for token in each[1:])


def test_a_rows_own_weights_multiply_in():
    weight = np.arange(14, dtype=np.float32).reshape(2, 7)
    batch = CausalLM(CausalLMConfig()).host_batch(ROWS | {"lm_weight": weight})
    assert batch["lm_weight"].tolist() == [[1, 2, 0, 4, 0, 0], [8, 9, 10, 11, 12, 13]]


def test_losses_are_unreduced_and_per_document():
    """I4 of the objective: a document's losses are the same alone and in a row with others."""
    model = build(GPTConfig(vocab=32, positions=16, embed=32))
    params = model.init(jax.random.key(0))
    objective = CausalLM(CausalLMConfig(z_loss=1e-3))
    losses = jax.jit(lambda batch: objective(model.merge(params), batch, None))

    def document(first, last):
        rows = {name: ROWS[name][:1, first:last] for name in ("tokens", "segments")}
        positions = np.arange(last - first, dtype=np.int32)[None]
        return objective.host_batch(rows | {"positions": positions, "component": np.zeros(1)})

    packed = losses(objective.host_batch(ROWS))
    assert packed.keys() == {"lm", "z"} == objective.terms.keys()
    for first, last in ((0, 3), (3, 5)):
        for term, alone in losses(document(first, last)).items():
            assert packed[term].shape == (2, 6) and packed[term].dtype == np.float32
            np.testing.assert_allclose(packed[term][0, first : last - 1], alone[0], rtol=2e-5)


def test_terms():
    plain, with_z = CausalLM(CausalLMConfig()), build_objective(CausalLMConfig(z_loss=1e-4))
    assert plain.terms == {"lm": Term(weight="lm_weight", targets="targets")}
    assert with_z.terms == plain.terms | {"z": Term(weight="lm_weight", coefficient=1e-4)}
    assert with_z.overlap == 1 and with_z.row_length(128) == 129


@pytest.mark.parametrize("fields", [{"z_loss": -1.0}, {"chunk_tokens": -1}])
def test_negative_settings_are_refused(fields):
    with pytest.raises(ValueError, match="cannot be negative"):
        build_objective(CausalLMConfig(**fields))
