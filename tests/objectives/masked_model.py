"""The smallest encoder that masked-token prediction can train: each token sees the mean of its own
segment. The objective is tested on it apart from any published model."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from gesso.partitioning.axes import einsum, shard

# R, a letter that no layout splits, for the places: L is split in flight.
LETTERS = {"table": "VD", "places": "RD", "types": "YD", "mix": "DF", "out": "FD", "pair": "DY"}


def sizes(*, vocab=64, length=32, embed=16):
    return {"V": vocab, "R": length, "D": embed, "F": 2 * embed, "Y": 2}


class Encoder:
    """features, predict and next_sentence over a dict of parameters."""

    def __init__(self, params):
        self.params = params

    def features(self, batch, key):
        p = self.params
        x_BLD = p["table"][batch["tokens"]] + p["places"][batch["positions"]]
        x_BLD = x_BLD + p["types"][batch["token_types"]]
        segments = batch["segments"]
        same_BLS = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] > 0)
        weight_BLS = same_BLS / jnp.maximum(same_BLS.sum(-1, keepdims=True), 1)
        mean_BLD = jnp.einsum("BLS,BSD->BLD", weight_BLS, x_BLD)
        h_BLF = jax.nn.gelu(einsum("BLD,DF->BLF", x_BLD * mean_BLD + mean_BLD, p["mix"]))
        return shard(x_BLD + einsum("BLF,FD->BLD", h_BLF, p["out"]), "BLD")

    def predict(self, x_BMD):
        return jnp.tanh(x_BMD), self.params["table"], None

    def next_sentence(self, x_BPD):
        return einsum("BPD,DY->BPY", x_BPD, self.params["pair"])


def make_model(**shape):
    """(what a step calls a model, parameters)."""
    size = sizes(**shape)
    keys = dict(zip(LETTERS, jax.random.split(jax.random.key(0), len(LETTERS)), strict=True))
    params = {
        name: jax.random.normal(keys[name], [size[each] for each in letters]) / 2
        for name, letters in LETTERS.items()
    }
    return SimpleNamespace(letters=LETTERS, merge=Encoder, config=None), params
