"""GPT-J as mesh-transformer-jax left it: "slim" shards and the training's JSON. Read only.

Weights are input x output. A layer's linear, linear_1, linear_2 are queries, values and keys. The
embedding is a product with a bias, which every shard adds: its sum is in every row of the table
here (mesh_transformer/layers.py and to_hf_weights.py of the same repository).
"""

from pathlib import Path
from typing import Any

import numpy as np

from gesso.export.families import gpt_configs
from gesso.export.files.npz_shards import Join, ShardedNpz
from gesso.export.files.tensors import FolderError, TensorSpec
from gesso.export.files.weights import read_json
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format
from gesso.export.tables.tables import Row
from gesso.models.gpt.config import GPTConfig

_TRAINING = (
    *("per_replica_batch", "gradient_accumulation_steps", "warmup_steps", "anneal_steps", "lr"),
    *("end_lr", "weight_decay", "total_steps", "tpu_size", "bucket", "model_dir", "train_set"),
    *("val_set", "eval_harness_tasks", "val_batches", "val_every", "ckpt_every", "keep_every"),
    *("name", "comment", "early_cast", "wandb_project"),
)
_LAYER, _HEAD = "layer_{Z}", "projection_shard"
TABLE = [
    Row("embed", "embedding_shard/linear/w", "VD"),
    Row("blocks/attention/q", f"{_LAYER}/linear/w", "D(NH)"),
    Row("blocks/attention/v", f"{_LAYER}/linear_1/w", "D(NH)"),
    Row("blocks/attention/k", f"{_LAYER}/linear_2/w", "D(NH)"),
    Row("blocks/attention/out", f"{_LAYER}/linear_3/w", "(NH)D"),
    Row("blocks/mlp/up", f"{_LAYER}/linear_4/w", "DF"),
    Row("blocks/mlp/up_bias", f"{_LAYER}/linear_4/b", "F"),
    Row("blocks/mlp/down", f"{_LAYER}/linear_5/w", "FD"),
    Row("blocks/mlp/down_bias", f"{_LAYER}/linear_5/b", "D"),
    Row("blocks/attention_norm/scale", f"{_LAYER}/replicated_layer_norm/scale", "D"),
    Row("blocks/attention_norm/bias", f"{_LAYER}/replicated_layer_norm/offset", "D"),
    Row("norm/scale", f"{_HEAD}/replicated_layer_norm/scale", "D"),
    Row("norm/bias", f"{_HEAD}/replicated_layer_norm/offset", "D"),
    Row("head_table", f"{_HEAD}/linear/w", "DV"),
    Row("head_bias", f"{_HEAD}/linear/b", "V"),
]
# The end of a leaf's name -> how its shards are joined; outputs are cut in q, v, k, the first
# product of the mlp and the head, inputs in the two that write to the residual and the embedding.
_JOINS: dict[str, Join] = {
    "linear/w": 1,
    "linear_1/w": 1,
    "linear_2/w": 1,
    "linear_3/w": 0,
    "linear_4/b": 0,
    "linear_4/w": 1,
    "linear_5/b": "sum",
    "linear_5/w": 0,
    "replicated_layer_norm/offset": "first",
    "replicated_layer_norm/scale": "first",
}
_EMBED: dict[str, Join] = {"embedding_shard/linear/b": "sum", "embedding_shard/linear/w": 0}


def read(f: Fields) -> GPTConfig:
    """The training's JSON, or a config.json of model_type gptj, to our config."""
    if "model_type" in f.record:
        config = gpt_configs.read_gpt_j(f)
        if config.head == "tied":
            f.problem("tie_word_embeddings: the shards hold a head of its own")
        return config
    f.harmless(*_TRAINING, "cores_per_replica")
    f.only("norm", "layernorm")
    f.only("pe", "rotary")
    for name in ("compat", "transposed_linear", "d_head"):
        f.only(name, None)
    embed, heads = f.integer("d_model"), f.integer("n_heads")
    return GPTConfig(
        vocab=f.integer("n_vocab"),
        positions=f.integer("seq"),
        layers=f.integer("layers"),
        embed=embed,
        heads=heads,
        mlp=4 * embed,
        position_encoding="rotary",
        rotary_dims=f.integer("pe_rotary_dims", embed // heads),
        block="parallel_shared_norm",
        biases=("mlp", "head"),
        head="untied",
    )


def _read_only(config: Any) -> Any:
    raise FolderError("mesh-transformer-jax's shards are only read; export as transformers' folder")


FORMAT = Format(
    model_type="gptj",
    family="gpt",
    # Nothing: these shards are only read.
    expresses=Expressible(format="mesh-transformer-jax", family="gpt", fields=()),
    read=read,
    write=_read_only,
    table=lambda config: TABLE,
    canonical=lambda name: name,
)


def shards_in(folder: Path) -> Path | None:
    """Where a folder's shards lie, in it or in its one step_N; None where there are none.
    FolderError for several steps."""
    found = [
        each for each in (folder, *sorted(folder.glob("step_*"))) if (each / "shard_0").is_dir()
    ]
    if len(found) > 1:
        raise FolderError(f"{folder} holds several steps; name one: {', '.join(map(str, found))}")
    return found[0] if found else None


def fields_in(folder: Path, shards: Path) -> Fields:
    """The fields of the training's JSON or of a config.json of GPT-J's. FolderError where there is
    none, or several."""
    places = dict.fromkeys((folder, shards))
    found = {
        path: record
        for place in places
        for path in sorted(place.glob("*.json"))
        for record in [read_json(path)]
        if {"d_model", "n_vocab"} <= record.keys() or record.get("model_type") == "gptj"
    }
    if len(found) != 1:
        told = f"several configs: {', '.join(map(str, found))}" if found else "no config"
        raise FolderError(
            f"{shards} holds shards of mesh-transformer-jax and {told}; put the JSON it was trained"
            " by (6B_roto_256.json for GPT-J 6B), or GPT-J's config.json, into the folder"
        )
    path, record = next(iter(found.items()))
    return Fields(record, source=str(path))


class SlimTensors:
    """The shards' leaves by the table's names, the embedding with its bias."""

    def __init__(self, folder: Path, config: GPTConfig) -> None:
        self._shards = ShardedNpz(folder, leaves(config.layers))
        self.specs: dict[str, TensorSpec] = dict(self._shards.specs)
        bias, table = _EMBED
        if self.specs[table].shape[1:] != self.specs[bias].shape:
            raise FolderError(f"{bias} {self.specs[bias]} does not fit {table} {self.specs[table]}")
        del self.specs[bias]

    def read(self, name: str) -> np.ndarray:
        x = self._shards.read(name)
        bias, table = _EMBED
        if name == table:
            x = x.astype(np.float32)
            x += self._shards.read(bias)
        return x


def leaves(layers: int) -> dict[str, Join]:
    """Every array of a model in the order of the tree, by its text: layer_10 before layer_2."""
    head: dict[str, Join] = {"linear/b": 0, "linear/w": 1}
    head |= {name: join for name, join in _JOINS.items() if "norm" in name}
    found = dict(_EMBED)
    for layer in sorted(f"layer_{i}" for i in range(layers)):
        found |= {f"{layer}/{name}": join for name, join in _JOINS.items()}
    return found | {f"{_HEAD}/{name}": join for name, join in head.items()}
