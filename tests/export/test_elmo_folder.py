"""ELMo's own files: read as published, written so, and every way they can be wrong.

tests/models/test_elmo_packs.py holds the outputs of the packs, read by the same table.
"""
# pyright: reportMissingImports=false

import dataclasses
import json

import h5py
import numpy as np
import pytest
from foreign_folders import PACKS, copied, random_params, same

from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.data.tokenizers.words import train
from gesso.export import FolderError, read_folder
from gesso.export.stacks.stacks import write_stack
from gesso.models import ELMoConfig
from gesso.models.trees import flat

SMALL = ELMoConfig(
    vocab=23,
    characters=9,
    character_embed=3,
    filters=((1, 4), (3, 5)),
    highways=2,
    embed=6,
    cell=10,
    layers=3,
)
CONFIGS = {
    "shared": SMALL,
    "none": dataclasses.replace(
        SMALL, head="none", activation="tanh", highways=0, cell_clip=0.0, projection_clip=0.7
    ),
    "words": ELMoConfig(
        vocab=23,
        reads="words",
        embed=6,
        cell=10,
        layers=1,
        head="tied",
        residuals="none",
        dropout=0.1,
        projection_clip=0.0,
        cell_clip=1.5,
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An export without our checksums."""
    monkeypatch.setattr("gesso.export.stacks.elmo_folder.compare", lambda *a, **k: None)
    path = tmp_path / "elmo"
    write_stack(path, SMALL, random_params(SMALL), format="elmo")
    (path / "gesso_export.json").unlink()
    return path


def tensors(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, x: found.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None
        )
    return found


def refused(folder, *told):
    with pytest.raises(FolderError) as raised:
        read_folder(folder)
    for each in told:
        assert each in str(raised.value)


def change(folder, name, x=None, file="weights.hdf5"):
    """Put `x` in place of a tensor; None takes it away."""
    with h5py.File(folder / file, "r+") as f:
        del f[name]
        if x is not None:
            f[name] = x


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_bit_for_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.stacks.elmo_folder.compare", lambda *a, **k: None)
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    write_stack(tmp_path / "a", config, params, format="elmo")
    imported = read_folder(tmp_path / "a")
    assert imported.config == config
    assert imported.config.problems() == []
    assert same(imported.params, params)
    assert {each.origin for each in imported.report} == {"loaded"}


def test_the_outputs_of_what_was_written_are_compared(tmp_path):
    params = random_params(SMALL)
    written = write_stack(tmp_path / "a", SMALL, params, format="elmo")
    assert written.agreement.apart == 0
    assert written.agreement.outputs == ("backward_logits", "forward_logits", "hidden")
    assert written.files.keys() == {
        *("options.json", "weights.hdf5", "softmax.hdf5", "gesso_export.json")
    }
    path = tmp_path / "a" / "weights.hdf5"
    content = bytearray(path.read_bytes())
    value = np.float32(params["layers"]["project"][1, 0, 2, 3]).tobytes()
    assert content.count(value) == 1
    content[content.index(value) + 1] ^= 1
    path.write_bytes(content)
    refused(tmp_path / "a", "tensor RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/W_P_0", "its checksum")


@pytest.mark.parametrize("name", ["open", "tf_fixture"])
def test_packs_come_back_as_the_files_they_were(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.stacks.elmo_folder.compare", lambda *a, **k: None)
    source = copied(PACKS / "elmo" / name, tmp_path / name)
    imported = read_folder(source)
    write_stack(tmp_path / "out", imported.config, imported.params, format="elmo")
    pairs = [("lm_weights.hdf5", "weights.hdf5"), ("softmax.hdf5", "softmax.hdf5")]
    for theirs, ours in pairs:
        if (source / theirs).is_file():
            a, b = tensors(source / theirs), tensors(tmp_path / "out" / ours)
            assert a.keys() == b.keys()
            for key, x in a.items():
                assert x.dtype == b[key].dtype and np.array_equal(x, b[key]), key
        else:
            assert not (tmp_path / "out" / ours).exists()
    said = json.loads((source / "options.json").read_text())
    made = json.loads((tmp_path / "out" / "options.json").read_text())
    assert made["lstm"] == said["lstm"] and made["char_cnn"] == said["char_cnn"]


def test_a_softmax_that_is_not_there_is_drawn_where_it_is_named(folder):
    (folder / "softmax.hdf5").unlink()
    without = read_folder(folder)
    assert without.config.head == "none" and "head_table" not in without.params
    fresh = read_folder(folder, fresh=("head*",), vocab=40, seed=1)
    assert fresh.config == dataclasses.replace(SMALL, vocab=40)
    assert fresh.params["head_table"].shape == (40, 6)
    assert [e.path for e in fresh.report if e.origin == "fresh"] == ["head_table", "head_bias"]
    assert same(fresh.params["layers"], without.params["layers"])


def test_a_vocabulary_is_padded_and_cut(folder, tmp_path):
    padded = read_folder(folder, vocab=32)
    assert padded.params["head_table"].shape == (32, 6)
    write_stack(tmp_path / "b", padded.config, padded.params, format="elmo", vocab=23)
    a, b = (tensors(each / "softmax.hdf5") for each in (folder, tmp_path / "b"))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_words_go_with_the_model(tmp_path, monkeypatch):
    """The vocabulary is the softmax's; words beyond it and what a word is survive for us."""
    monkeypatch.setattr("gesso.export.stacks.elmo_folder.compare", lambda *a, **k: None)
    texts = [" ".join(f"w{i}" for i in range(n)) for n in range(1, 40)]
    tokenizer = train(texts, classes=23, cap=30)
    write_stack(tmp_path / "a", SMALL, random_params(SMALL), tokenizer, format="elmo")
    lines = (tmp_path / "a" / "vocab.txt").read_text().splitlines()
    assert len(lines) == 23 and lines[:3] == ["</S>", "<S>", "<UNK>"]
    again = load_tokenizer(tmp_path / "a")
    assert again.fingerprint == tokenizer.fingerprint
    imported = read_folder(tmp_path / "a")
    write_stack(tmp_path / "b", SMALL, imported.params, imported.tokenizer, format="elmo")
    assert load_tokenizer(tmp_path / "b").fingerprint == tokenizer.fingerprint
    save_tokenizer(again, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    with pytest.raises(FolderError, match="24 classes, and the softmax 23 rows"):
        more = train(texts, classes=24, cap=24)
        write_stack(tmp_path / "c", SMALL, random_params(SMALL), more, format="elmo")
    with pytest.raises(FolderError, match="this run's tokenizer is of bytes"):
        byte = load_tokenizer("bytes")
        write_stack(tmp_path / "c", SMALL, random_params(SMALL), byte, format="elmo")


def test_tensors_that_do_not_fit(folder):
    name = "RNN_1/RNN/MultiRNNCell/Cell2/LSTMCell/W_0"
    change(folder, name, np.ones((12, 30), np.float32))
    refused(folder, f"{name} has shape [12, 30], but layers/read and layers/recur", "[12, 40]")
    change(folder, name)
    refused(folder, f"{name} [12, 40] (layers/read and layers/recur) is missing")
    change(folder, "CNN/W_cnn_1", np.ones((1, 3, 3, 5), np.int32))
    refused(folder, "CNN/W_cnn_1 is int32, and a weight is a float")
    with h5py.File(folder / "softmax.hdf5", "r+") as f:
        f["softmax/W2"] = np.ones(3, np.float32)
    refused(folder, "softmax/W2 float32[3] in softmax.hdf5 is not a parameter of this model")


def test_float16_and_the_other_byte_order_are_read(folder):
    x = flat(random_params(SMALL))["layers/bias"][0, 1].reshape(-1)
    name = "RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/B"
    change(folder, name, x.astype(">f4"))
    assert np.array_equal(read_folder(folder).params["layers"]["bias"][0, 1].reshape(-1), x)
    change(folder, name, x.astype(np.float16))
    read = read_folder(folder).params["layers"]["bias"][0, 1].reshape(-1)
    assert np.array_equal(read, x.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("left", [0, 8, 100, 3000, -4])
def test_a_file_that_is_cut_off(folder, left):
    path = folder / "weights.hdf5"
    path.write_bytes(path.read_bytes()[:left])
    refused(folder, "weights.hdf5 is cut off or damaged")


def test_flipped_bits_never_crash(folder):
    """HDF5 of the old kind has no checksums: a flip gives an error of ours or other values."""
    path = folder / "weights.hdf5"
    content, random = path.read_bytes(), np.random.default_rng(0)
    noticed = 0
    for bit in random.choice(8 * 4000, 60, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            read_folder(folder)
        except FolderError:
            noticed += 1
    assert noticed > 10


@pytest.mark.parametrize("kind", ["soft", "external", "external values"])
def test_names_that_lead_out_of_the_file(folder, tmp_path, kind):
    name = "char_embed"
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as f:
        f["x"] = np.ones((261, 3), np.float32)
    change(folder, name)
    with h5py.File(folder / "weights.hdf5", "r+") as f:
        if kind == "soft":
            f[name] = h5py.SoftLink("/CNN_proj/W_proj")
        elif kind == "external":
            f[name] = h5py.ExternalLink(str(secret), "/x")
        else:
            outside = [(str(secret), 2048, 261 * 3 * 4)]
            f.create_dataset(name, (261, 3), np.float32, external=outside)
    refused(folder, name, "another file" if kind == "external values" else "is a link to")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lstm": {"dim": 10, "projection_dim": 6, "n_layers": 3, "forget": 2}}, "forget: '2'"),
        ({"lstm": {"dim": 10}}, "projection_dim is missing"),
        ({"lstm": 3}, "dim is missing"),
        ({"bidirectional": False}, "bidirectional: False is not supported"),
        ({"n_gpus_shared": 2}, "n_gpus_shared: '2' is a field that is not known"),
        ({"share_embedding_softmax": True}, "no table of words to share"),
        ({"n_tokens_vocab": 22}, "softmax/W has shape [23, 6], but head_table"),
    ],
)
def test_options_that_cannot_be_honoured(folder, changes, told):
    path = folder / "options.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(folder, told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_characters": 300}, "n_characters: 300 is not supported"),
        ({"filters": [[1, 4], [3, 5, 6]]}, "must be pairs of a width and a count"),
        ({"filters": [[1, 4], [30, 5]]}, "widths are from 1 to the 9 characters"),
        ({"activation": "gelu"}, "activation: 'gelu' is not supported"),
        ({"embedding": {"dim": 3, "trained": True}}, "trained"),
        ({"n_highway": 1}, "CNN_high_1/W_carry float32[9,9] in weights.hdf5 is not a parameter"),
    ],
)
def test_characters_that_cannot_be_read(folder, changes, told):
    path = folder / "options.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"char_cnn": record["char_cnn"] | changes}))
    refused(folder, told)


def test_a_folder_of_two_models_or_none(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not a known checkpoint", "options.json (ELMo)")
    (folder / "other_options.json").write_text("{}")
    refused(folder, "2 options files")
    (folder / "other_options.json").unlink()
    (folder / "old_weights.hdf5").write_bytes(b"")
    refused(folder, "holds 2 files *weights.hdf5")


def test_what_the_files_cannot_say(tmp_path):
    separate = dataclasses.replace(SMALL, head="separate")
    with pytest.raises(FolderError, match="no model.head 'separate'"):
        write_stack(tmp_path / "a", separate, random_params(separate), format="elmo")
    with pytest.raises(FolderError, match="read as float32"):
        write_stack(tmp_path / "a", SMALL, random_params(SMALL), format="elmo", dtype="float16")
    from foreign_folders import CONFIGS as OTHERS

    with pytest.raises(FolderError, match="this is a gpt"):
        gpt = OTHERS["gpt2"]
        write_stack(tmp_path / "a", gpt, random_params(gpt), format="elmo")
    with pytest.raises(FolderError, match="family elmo; use the format elmo"):
        from gesso.export import write_folder

        write_folder(tmp_path / "a", SMALL, random_params(SMALL))
    assert list(tmp_path.iterdir()) == []
