"""ELMo's reference packs: published HDF5 names to our tree and back, and their words as batches."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from models.config import ELMoConfig

PACKS = Path(__file__).resolve().parents[3] / "shared" / "packs" / "elmo"
PAD, BEGIN, END = 260, 258, 259


class ELMoPack:
    """`.config`, `.z` (reference arrays), `.manifest`, `.params` of a pack's folder."""

    def __init__(self, name):
        self.folder = PACKS / name
        if not self.folder.is_dir():
            pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        has_softmax = (self.folder / "softmax.hdf5").is_file()
        options = json.loads((self.folder / "options.json").read_text())
        self.config = config_of(options, head="shared" if has_softmax else "none")
        self.z = np.load(self.folder / "reference.npz")
        tensors = self.tensors("lm_weights")
        self.params = to_ours(tensors | (self.tensors("softmax") if has_softmax else {}))

    def tensors(self, name):
        found = {}
        with h5py.File(self.folder / f"{name}.hdf5") as file:
            file.visititems(
                lambda key, each: (
                    found.update({key: np.array(each)}) if isinstance(each, h5py.Dataset) else None
                )
            )
        return found


def config_of(options, **fields):
    """options.json -> ELMoConfig, every field that changes a number."""
    lstm, characters = options["lstm"], options["char_cnn"]
    assert characters["n_characters"] in (261, 262)
    return ELMoConfig(
        vocab=options.get("n_tokens_vocab", 1),
        characters=characters["max_characters_per_token"],
        character_embed=characters["embedding"]["dim"],
        filters=tuple(tuple(each) for each in characters["filters"]),
        activation=characters["activation"],
        highways=characters["n_highway"],
        embed=lstm["projection_dim"],
        cell=lstm["dim"],
        layers=lstm["n_layers"],
        cell_clip=lstm["cell_clip"],
        projection_clip=lstm["proj_clip"],
        residuals="layers" if lstm["use_skip_connections"] else "none",
        **fields,
    )


def _count(names, pattern):
    return sum(pattern.format(i) in names for i in range(99))


def to_ours(t):
    """Their tensors -> our params; all of them are used."""
    t, filters = dict(t), {}
    for i in range(_count(t, "CNN/W_cnn_{}")):
        made = {"weight": t.pop(f"CNN/W_cnn_{i}")[0], "bias": t.pop(f"CNN/b_cnn_{i}")}
        filters[f"filters_{i}"] = made
    highways = {"carry": "W_carry", "carry_bias": "b_carry"}
    highways |= {"transform": "W_transform", "transform_bias": "b_transform"}
    depth = _count(t, "CNN_high_{}/W_carry")
    characters = filters | {
        "embed": t.pop("char_embed"),
        "highways": {
            ours: np.stack([t.pop(f"CNN_high_{i}/{theirs}") for i in range(depth)])
            for ours, theirs in highways.items()
        },
        "projection": t.pop("CNN_proj/W_proj"),
        "projection_bias": t.pop("CNN_proj/b_proj"),
    }
    layers = {"read": [], "recur": [], "bias": [], "project": []}
    for z in range(_count(t, "RNN_0/RNN/MultiRNNCell/Cell{}/LSTMCell/B")):
        both = {name: [] for name in layers}
        for u in (0, 1):
            cell = f"RNN_{u}/RNN/MultiRNNCell/Cell{z}/LSTMCell"
            stacked = t.pop(f"{cell}/W_0")
            stacked = stacked.reshape(len(stacked), 4, -1)
            read, recur = np.split(stacked, 2)
            bias = t.pop(f"{cell}/B").reshape(4, -1)
            values = (read, recur, bias, t.pop(f"{cell}/W_P_0"))
            for name, value in zip(both, values, strict=True):
                both[name].append(value)
        for name, pair in both.items():
            layers[name].append(np.stack(pair))
    params = {
        "characters": characters,
        "layers": {name: np.stack(each) for name, each in layers.items()},
    }
    if "softmax/W" in t:
        params |= {"head_table": t.pop("softmax/W"), "head_bias": t.pop("softmax/b")}
    assert not t, f"not read: {sorted(t)}"
    return params


def to_theirs(params):
    """Our params -> their tensors."""
    c, layers, t = params["characters"], params["layers"], {}
    for i in range(_count(c, "filters_{}")):
        t[f"CNN/W_cnn_{i}"] = np.asarray(c[f"filters_{i}"]["weight"])[None]
        t[f"CNN/b_cnn_{i}"] = c[f"filters_{i}"]["bias"]
    for ours, theirs in {"carry": "carry", "transform": "transform"}.items():
        for i, (weight, bias) in enumerate(
            zip(c["highways"][ours], c["highways"][f"{ours}_bias"], strict=True)
        ):
            t[f"CNN_high_{i}/W_{theirs}"], t[f"CNN_high_{i}/b_{theirs}"] = weight, bias
    t |= {"char_embed": c["embed"], "CNN_proj/W_proj": c["projection"]}
    t |= {"CNN_proj/b_proj": c["projection_bias"]}
    for z in range(len(layers["read"])):
        for u in (0, 1):
            cell = f"RNN_{u}/RNN/MultiRNNCell/Cell{z}/LSTMCell"
            both = np.concatenate([layers["read"][z, u], layers["recur"][z, u]])
            t[f"{cell}/W_0"] = both.reshape(len(both), -1)
            t[f"{cell}/B"] = np.reshape(layers["bias"][z, u], -1)
            t[f"{cell}/W_P_0"] = layers["project"][z, u]
    if "head_table" in params:
        t |= {"softmax/W": params["head_table"], "softmax/b": params["head_bias"]}
    return {name: np.asarray(each) for name, each in t.items()}


def with_bounds(char_ids):
    """AllenNLP's ids (one higher, 0 = padded word) -> ours with <S> and </S>, and segments."""
    rows, length, width = char_ids.shape
    characters = np.full((rows, length + 2, width), PAD, np.int32)
    segments = np.zeros((rows, length + 2), np.int32)
    lengths = (char_ids.sum(-1) > 0).sum(-1)
    for row, n in enumerate(lengths):
        characters[row, 1 : n + 1] = char_ids[row, :n].astype(np.int32) - 1
        for place, sentinel in ((0, 256), (n + 1, 257)):
            characters[row, place, :3] = BEGIN, sentinel, END
        segments[row, : n + 2] = 1
    return {"characters": characters, "segments": segments}
