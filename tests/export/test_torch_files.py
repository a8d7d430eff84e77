"""pytorch_model.bin is read without PyTorch, and nothing in it is ever run."""

import pickle
import zipfile

import numpy as np
import pytest
from foreign_folders import (
    CONFIGS,
    PACKS,
    copied,
    edit_config,
    malicious,
    random_params,
    same,
    tensors_of,
    torch_pickle,
    torch_zip,
)

from gesso.export import FolderError, read_folder, write_folder
from gesso.export.files.torch import TorchFile


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    path = tmp_path / "out"
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    write_folder(path, config, params)
    (path / "model.safetensors").unlink()
    (path / "gesso_export.json").unlink()
    torch_zip(path / "pytorch_model.bin", *torch_pickle(tensors_of(config, params)))
    return path


def test_its_tensors_are_the_safetensors_ones(folder):
    assert same(read_folder(folder).params, random_params(CONFIGS["gpt2"]))


@pytest.mark.parametrize("wrap", ["zip", "bare"])
def test_a_pickle_that_runs_a_command_is_refused_unrun(folder, tmp_path, wrap):
    witness = tmp_path / "it-ran"
    attack = malicious(f"touch {witness}")
    path = folder / "pytorch_model.bin"
    if wrap == "zip":
        torch_zip(path, attack)
    else:
        path.write_bytes(attack)
    with pytest.raises(FolderError) as raised:
        read_folder(folder)
    assert not witness.exists()
    told = str(raised.value)
    assert (
        ("posix.system" in told or "os.system" in told) if wrap == "zip" else "bare pickle" in told
    )
    pickle.loads(attack)
    assert witness.exists()  # it would have run


@pytest.mark.parametrize(
    "name",
    [b"builtins\neval\n", b"torch\nload\n", b"torch.storage\n_load_from_bytes\n", b"numpy\nload\n"],
)
def test_only_builders_of_tensors_are_known(tmp_path, name):
    torch_zip(tmp_path / "x.bin", b"\x80\x02c" + name + b".")
    with pytest.raises(FolderError, match=name.split(b"\n")[1].decode()):
        TorchFile(tmp_path / "x.bin")


def test_a_flipped_bit_names_its_tensor(folder):
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as z:
        entry = z.getinfo("archive/data/3")
        at = entry.header_offset + 30 + len(entry.filename) + 17
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    name = list(TorchFile(path).specs)[3]
    with pytest.raises(FolderError, match=f"{name}: Bad CRC-32"):
        read_folder(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_is_cut_off(folder, share):
    path = folder / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FolderError, match="pytorch_model.bin"):
        read_folder(folder)


def test_a_tensor_that_reaches_beyond_its_storage(tmp_path):
    pickled, storages = torch_pickle({"w": np.ones((4, 3), np.float32)})
    torch_zip(tmp_path / "a.bin", pickled, storages)
    assert TorchFile(tmp_path / "a.bin").read("w").shape == (4, 3)
    five = pickled.replace((4).to_bytes(4, "little") + b"J", (5).to_bytes(4, "little") + b"J", 1)
    assert five != pickled
    torch_zip(tmp_path / "b.bin", five, storages)
    with pytest.raises(FolderError, match=r"w float32\[5,3\] reaches value 14 of 12"):
        TorchFile(tmp_path / "b.bin")
    torch_zip(tmp_path / "c.bin", pickled, {"0": storages["0"][:-4]})
    with pytest.raises(FolderError, match="w: archive/data/0 has 44 bytes for 12 float32"):
        TorchFile(tmp_path / "c.bin")
    torch_zip(tmp_path / "d.bin", pickled, {})
    with pytest.raises(FolderError, match="w: archive/data/0 is missing"):
        TorchFile(tmp_path / "d.bin")


def test_what_is_no_dict_of_tensors(tmp_path):
    cases = {
        "a training checkpoint": pickle.dumps({"epoch": 3}, protocol=2),
        "holds a list": pickle.dumps([1], protocol=2),
        "is cut off or damaged": b"\x80\x02}(",
    }
    for told, pickled in cases.items():
        torch_zip(tmp_path / "x.bin", pickled)
        with pytest.raises(FolderError, match=told):
            TorchFile(tmp_path / "x.bin")
    torch_zip(tmp_path / "x.bin", b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FolderError, match="compressed"):
        TorchFile(tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as z:
        z.writestr("other.txt", "x")
    with pytest.raises(FolderError, match="without a data.pkl"):
        TorchFile(tmp_path / "x.bin")


def test_the_published_layout_survives_no_flip(tmp_path):
    """hub_layout/gpt_j is a file that PyTorch wrote: flipped bits are noticed or change nothing."""
    folder = copied(PACKS / "hub_layout" / "gpt_j", tmp_path / "gpt_j")
    edit_config(folder)
    whole = read_folder(folder).params
    path = folder / "pytorch_model.bin"
    content = path.read_bytes()
    noticed = 0
    for bit in np.random.default_rng(0).choice(8 * len(content), 40, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            assert same(read_folder(folder).params, whole)
        except FolderError:
            noticed += 1
    assert noticed > 20
