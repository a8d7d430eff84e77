"""Reference packs, read by the same tables and configs that `gesso import` and `export` use."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from gesso.export.reading import open_folder
from gesso.export.tables.tables import read_parameters, write_tensors
from gesso.models.trees import flat, nest

PACKS = Path(__file__).resolve().parents[3] / "shared" / "packs"
FAMILIES = ("gpt1", "gpt2", "gpt_neo", "gpt_j", "gpt_neox")

__all__ = ["FAMILIES", "PACKS", "Pack", "flat", "nest", "token_mean"]


class Pack:
    """A folder of published weights: `.config`, `.model`, `.params`, `.z` (reference arrays),
    `.manifest`, `.tensors(name)`. What is read covers every tensor and every parameter."""

    def __init__(self, family, variant="open"):
        self.family, self.folder = family, PACKS / family / variant
        if not self.folder.is_dir():
            pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.z = np.load(self.folder / "reference.npz")
        opened = open_folder(self.folder)
        self.config, self.model, self.places = opened.config, opened.model, opened.places
        params = dict(read_parameters(opened.places, opened.source))
        self.params = nest({path: params[path] for path in flat(self.model.letters)})

    def tensors(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def write(self, params):
        """Our params -> their tensors."""
        params = {path: np.asarray(x) for path, x in flat(params).items()}
        assert params.keys() == flat(self.model.letters).keys()
        return dict(write_tensors(self.places, params, dtype=np.dtype(np.float32)))

    def decays(self):
        """Which parameters the recipe decays: what has two dims or more in their files."""
        return nest({path: len(each.shape) >= 2 for each in self.places for path in each.ours})


def token_mean(logits, labels):
    """The reference's loss: the mean over all labels of the batch; -100 is ignored."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(nll * (labels != -100)) / jnp.sum(labels != -100)
