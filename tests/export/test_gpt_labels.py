"""Decoders with labels leave and come back, and transformers says the same of a text."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params

from gesso.export import FolderError, read_folder, write_folder
from gesso.export.parity import run_theirs
from gesso.models import build

PYTHON = os.environ.get("GESSO_TRANSFORMERS_PYTHON", "")
FAMILIES = {"gpt1": "OpenAIGPT", "gpt2": "GPT2", "gpt_neo": "GPTNeo"}


def labelled(family, **settings):
    return dataclasses.replace(CONFIGS[family], outputs=("classify",), labels=3, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family, tmp_path):
    config = labelled(family)
    params = random_params(config)
    write_folder(tmp_path / "out", config, params)
    record = json.loads((tmp_path / "out/config.json").read_text())
    assert record["architectures"] == [f"{FAMILIES[family]}ForSequenceClassification"]
    again = read_folder(tmp_path / "out")
    assert again.config == config and len(record["id2label"]) == 3
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again.params), strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_what_cannot_be_said_is_refused(tmp_path):
    for config in (labelled("gpt_j"), labelled("gpt2", pooling="concat")):
        with pytest.raises(FolderError, match=r"ForSequenceClassification"):
            write_folder(tmp_path / "out", config, random_params(config))


@pytest.mark.skipif(not PYTHON, reason="GESSO_TRANSFORMERS_PYTHON is not set")
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_labels_alike(family, tmp_path):
    config = labelled(family)
    params = random_params(config)
    write_folder(tmp_path / "out", config, params)
    # One text: of several, transformers looks for the last token by an id of padding.
    tokens = np.random.default_rng(0).integers(0, config.vocab, (1, 9), dtype=np.int32)
    theirs = run_theirs(tmp_path / "out", {"input_ids": tokens}, python=PYTHON)
    assert not len(theirs["unexpected"])
    with jax.default_matmul_precision("highest"):
        ours = build(config).apply(params, {"tokens": tokens})["labels"]
    np.testing.assert_allclose(ours, theirs["logits"], atol=5e-5 * np.abs(ours).max())
