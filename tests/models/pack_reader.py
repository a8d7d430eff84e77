"""Reference packs, read by the same tables and configs that `gesso import` and `export` use."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.fields import Fields
from export.folder import slots
from export.formats import format_of
from export.tables import check, flat, nest, places, read_parameters, write_tensors
from export.tensor_files import TensorSpec
from models import build

PACKS = Path(__file__).resolve().parents[3] / "shared" / "packs"
FAMILIES = ("gpt1", "gpt2", "gpt_neo", "gpt_j", "gpt_neox")

__all__ = ["FAMILIES", "PACKS", "Pack", "flat", "nest"]


class InMemory:
    """Tensors by name, as export's tables read them."""

    def __init__(self, tensors):
        self.specs = {name: TensorSpec(x.dtype, x.shape, "memory") for name, x in tensors.items()}
        self.read = tensors.__getitem__


class Pack:
    """One family's folder: `.config`, `.z` (reference arrays), `.manifest`, `.tensors(name)`."""

    def __init__(self, family):
        self.family, self.folder = family, PACKS / family / "open"
        if not self.folder.is_dir():
            pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        record = json.loads((self.folder / "config.json").read_text())
        self.format, fields = format_of(record), Fields(record)
        self.config = self.format.read(fields)
        fields.close()
        self.places = places(self.format.table(self.config), slots(build(self.config)))
        self.z = np.load(self.folder / "reference.npz")

    def tensors(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def read(self, tensors, letters):
        """Their tensors -> our params; the table must name all of both."""
        source = InMemory(tensors)
        check(self.places, source)
        params = dict(read_parameters(self.places, source))
        return nest({path: params[path] for path in flat(letters)})

    def write(self, params, letters):
        """Our params -> their tensors."""
        params = {path: np.asarray(x) for path, x in flat(params).items()}
        assert params.keys() == flat(letters).keys()
        return dict(write_tensors(self.places, params, dtype=np.dtype(np.float32)))
