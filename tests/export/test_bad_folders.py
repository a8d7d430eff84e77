"""Folders that cannot be taken: each is refused with the tensor's name, and nothing is made."""

import json

import numpy as np
import pytest
from foreign_folders import CONFIGS, edit_config, random_params, tensors_of, write_safetensors
from safetensors.numpy import load_file

from gesso.export import FolderError, read_folder, write_folder

NAME = "transformer.h.1.mlp.c_fc.weight"  # [12, 48]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An export in three or more shards, without our own checksums."""
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    path = tmp_path / "out"
    write_folder(path, CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))
    (path / "gesso_export.json").unlink()
    return path


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    path = tmp_path / "sharded"
    params = random_params(CONFIGS["gpt2"])
    write_folder(path, CONFIGS["gpt2"], params, max_shard_bytes=4_000)
    return path


def change(folder, **tensors):
    """Put other tensors in place of those of these names; None takes one away."""
    found = load_file(folder / "model.safetensors") | tensors
    kept = {name: x for name, x in found.items() if x is not None}
    write_safetensors(folder / "model.safetensors", kept)


def refused(folder, *told):
    with pytest.raises(FolderError) as raised:
        read_folder(folder)
    for each in told:
        assert each in str(raised.value)


def test_a_missing_tensor(folder):
    change(folder, **{NAME: None})
    refused(folder, f"{NAME} [12, 48] (blocks/mlp/up) is missing")


def test_an_extra_tensor(folder):
    change(folder, **{"more.weight": np.ones((2, 12), np.float32)})
    refused(folder, "transformer.more.weight float32[2,12]", "is not a parameter of this model")


def test_a_misshapen_tensor(folder):
    change(folder, **{NAME: np.ones((48, 12), np.float32)})
    refused(folder, f"{NAME} has shape [48, 12], but blocks/mlp/up of this config needs [12, 48]")


def test_a_tensor_of_another_type(folder):
    change(folder, **{NAME: np.ones((12, 48), np.int32)})
    refused(folder, f"{NAME} is int32, and a weight is a float")


def test_a_tensor_that_is_no_number(folder):
    x = load_file(folder / "model.safetensors")[NAME].copy()
    x[3, 7] = np.nan
    change(folder, **{NAME: x})
    refused(folder, f"tensor {NAME} float32[12, 48] holds 1 NaN or infinite values")


@pytest.mark.parametrize("left", [0, 4, 8, 300, -4])
def test_a_file_that_is_cut_off(folder, left):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:left])
    refused(folder, "model.safetensors is cut off or damaged")


def test_a_cut_file_names_the_tensor_it_lacks(folder):
    path = folder / "model.safetensors"
    last = list(load_file(path))[-1]
    path.write_bytes(path.read_bytes()[:-4])
    assert last in tensors_of(CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))
    refused(folder, "the tensors up to ", " bytes, the file has ")


def test_every_flipped_bit_of_the_header_is_noticed_or_harmless(folder):
    """No flip may change a value that is read: it is refused, or reads the same bits."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    whole = read_folder(folder).params["blocks"]["mlp"]["up"]
    length = int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    noticed = 0
    for bit in random.choice(8 * (8 + length), 40, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            assert (read_folder(folder).params["blocks"]["mlp"]["up"] == whole).all()
        except FolderError:
            noticed += 1
    assert noticed > 20


def test_a_flipped_bit_of_our_own_export_names_its_tensor(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    last = list(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))[-1]
    refused(sharded, f"{shard.name}: tensor {last} float32", "is not what was exported")


def test_a_missing_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, f"names shards that are not there: {shard.name} with transformer.")


@pytest.mark.parametrize("place", ["../out/model.safetensors", "/etc/passwd", "..", "a/b", ""])
def test_an_index_that_leads_out_of_the_folder(sharded, folder, place):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][NAME] = place
    path.write_text(json.dumps(index))
    refused(sharded, f"puts tensor {NAME} into {place!r}, which is not a file of this folder")


def test_an_index_that_does_not_fit_its_shards(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"][NAME] = next(s for s in shards if s != index["weight_map"][NAME])
    path.write_text(json.dumps(index))
    refused(sharded, f"names tensors that are not there: {NAME} in {index['weight_map'][NAME]}")


def test_a_tensor_in_two_shards(sharded):
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    twice = next(iter(load_file(first)))
    write_safetensors(second, load_file(second) | {twice: load_file(first)[twice]})
    refused(sharded, f"tensor {twice} is in {first.name} and in {second.name}")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"alibi": True}, "alibi: 'True' is a field that is not known for gpt2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"activation_function": "prelu"}, "activation_function: 'prelu' is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention: True is not supported"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"n_embd": "12"}, "n_embd: '12' must be a whole number"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon: -1.0 must be"),
        ({"n_layer": None}, "n_layer is missing"),
        ({"model_type": "mamba"}, "model_type 'mamba'; these can be read: openai-gpt, gpt2"),
        ({"n_head": 5}, "embed 12 does not divide over 5 heads"),
        ({"n_layer": 3}, "transformer.h.2.attn.c_attn.weight [12, 36]"),
    ],
)
def test_a_config_that_cannot_be_honoured(folder, changes, told):
    edit_config(folder, **changes)
    refused(folder, told)


def test_all_that_is_wrong_with_a_config_is_said_together(folder):
    edit_config(folder, alibi=True, n_embd=0, activation_function="prelu")
    refused(folder, "alibi", "n_embd", "activation_function")


@pytest.mark.parametrize("content", ["", "{", "[]", "\x80\x04"])
def test_a_config_that_is_no_json_object(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


def test_folders_without_weights(tmp_path, folder):
    with pytest.raises(FolderError, match="there is no folder"):
        read_folder(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights: looked for model.safetensors", "config.json")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(folder, "Git LFS pointer")
