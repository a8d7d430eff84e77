"""A published checkpoint in, trained on, out again: through the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gesso.launch import cli
from gesso.pretrain.checkpoints.checkpoints import load_params
from gesso.pretrain.exits import DONE, REFUSED


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as others publish it: a tiny GPT-2 with a tokenizer of bytes."""
    from gesso.data.tokenizers.load import load_tokenizer
    from gesso.export import write_folder
    from gesso.export.tables.tables import slots
    from gesso.models import GPTConfig, build
    from gesso.models.trees import nest

    config = GPTConfig(
        vocab=260, positions=32, layers=1, embed=8, heads=2, mlp=32, residual_init="depth"
    )
    random = np.random.default_rng(0)
    shapes = {path: slot.shape for path, slot in slots(build(config)).items()}
    params = nest({p: random.normal(0, 0.3, s).astype(np.float32) for p, s in shapes.items()})
    folder = tmp_path_factory.mktemp("published") / "tiny-gpt2"
    write_folder(folder, config, params, load_tokenizer("bytes"))
    return folder


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "imported"
    assert cli.main(["import", str(published), str(run)]) == DONE
    return run


def test_it_generates_and_goes_out_as_it_came(published, imported, tmp_path, capsys):
    from safetensors.numpy import load_file

    assert cli.main(["generate", str(imported), "--prompt", "ab", "--max-tokens", "3"]) == DONE
    out = str(tmp_path / "out")
    command = ["export", str(imported), out, "--license", "mit", "--json"]
    capsys.readouterr()
    assert cli.main(command) == DONE
    written = json.loads(capsys.readouterr().out)
    assert written["agreement"]["apart"] == 0.0 and written["model_type"] == "gpt2"
    a, b = (load_file(Path(each) / "model.safetensors") for each in (published, out))
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


def test_training_goes_on_from_it(imported, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    before, _ = load_params(run / "checkpoints")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} foxes and {n + 1} hens" for n in range(300)))
    store, tokenizer = str(tmp_path / "store"), str(run / "tokenizer")
    build = ["corpus", "build", str(text), "--folder", store, "--text-split", "blank_line"]
    assert cli.main([*build, "--tokenizer", tokenizer, "--holdout", "0.2"]) == DONE
    train = ["pretrain", str(run), "--data.store", store, "--steps", "2", "--batch", "8"]
    settings = ["--length", "16", "--optimizer.learning-rate", "1e-4"]
    assert cli.main([*train, *settings, "--logging.no-tensorboard"]) == DONE
    after, info = load_params(run / "checkpoints")
    assert info["step"] == 2
    moved = np.abs(after["embed"] - before["embed"]).max()
    assert 0 < moved <= 3e-4  # two updates of 1e-4 each: it began where the import was
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--baselines", "skip", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["step"] == 2


def test_training_on_another_tokenizers_store_is_refused(imported, tmp_path, capsys):
    from gesso.data.tokenizers.load import train_bpe

    run = tmp_path / "run"
    shutil.copytree(imported, run)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} foxes and {n + 1} hens" for n in range(300)))
    train_bpe(iter([text.read_text()]), vocab_size=258, folder=tmp_path / "bpe")
    store = str(tmp_path / "store")
    build = ["corpus", "build", str(text), "--folder", store, "--text-split", "blank_line"]
    assert cli.main([*build, "--tokenizer", str(tmp_path / "bpe"), "--holdout", "0.2"]) == DONE
    train = ["pretrain", str(run), "--data.store", store, "--steps", "2", "--batch", "8"]
    assert cli.main([*train, "--length", "16"]) == REFUSED
    assert "another tokenizer than the imported model" in capsys.readouterr().err


def test_a_run_is_never_overwritten(published, imported, capsys):
    assert cli.main(["import", str(published), str(imported)]) == REFUSED
    assert "never overwritten" in capsys.readouterr().err


def test_a_bad_folder_leaves_no_run(published, tmp_path, capsys):
    folder = tmp_path / "bad"
    shutil.copytree(published, folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    assert cli.main(["import", str(folder), str(tmp_path / "run")]) == REFUSED
    assert "cut off or damaged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_formats_go_through_the_command_too(imported, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", str(imported), str(out), "--format", "ctranslate2", "--json"]
    capsys.readouterr()
    assert cli.main(command) == DONE
    written = json.loads(capsys.readouterr().out)
    assert written["files"].keys() >= {"model.bin", "config.json", "vocabulary.json"}
    assert written["agreement"]["apart"] <= written["agreement"]["bound"]
    for each in (["--license", "mit"], ["--shard-megabytes", "10"]):
        assert cli.main([*command, *each]) == REFUSED
        assert "neither a model card nor shards" in capsys.readouterr().err
    assert (out / "model.bin").is_file()


def test_elmo_comes_in_and_goes_out_through_the_commands(tmp_path, capsys):
    """A folder without a softmax gets one drawn; what comes out is what AllenNLP reads."""
    h5py = pytest.importorskip("h5py")
    from gesso.data.tokenizers.words import train
    from gesso.export.stacks.elmo_folder import write
    from gesso.export.tables.tables import slots
    from gesso.models import ELMoConfig, build
    from gesso.models.trees import nest

    sizes = {"vocab": 20, "character_embed": 2, "embed": 4, "cell": 6, "layers": 1}
    config = ELMoConfig(**sizes, filters=((2, 3),), head="none")
    random = np.random.default_rng(0)
    shapes = {path: slot.shape for path, slot in slots(build(config)).items()}
    params = nest({p: random.normal(0, 0.3, s).astype(np.float32) for p, s in shapes.items()})
    words = train([" ".join(f"w{i}" for i in range(n)) for n in range(30)], classes=20, cap=20)
    write(tmp_path / "published", config, params, tokenizer=words)
    command = ["import", str(tmp_path / "published"), str(tmp_path / "run"), "--fresh", "head*"]
    capsys.readouterr()
    assert cli.main([*command, "--json"]) == DONE
    made = json.loads(capsys.readouterr().out)
    assert made["family"] == "elmo" and made["tokenizer"] == {"kind": "words", "vocab_size": 20}
    assert "2 fresh: head_table; head_bias" in made["told"]
    out = str(tmp_path / "out")
    assert cli.main(["export", str(tmp_path / "run"), out, "--format", "elmo"]) == DONE
    with h5py.File(tmp_path / "published" / "weights.hdf5") as a:
        names = []
        a.visititems(lambda name, x: names.append(name) if hasattr(x, "shape") else None)
        with h5py.File(tmp_path / "out" / "weights.hdf5") as b:
            assert all(np.array_equal(a[name], b[name]) for name in names)
    with h5py.File(tmp_path / "out" / "softmax.hdf5") as b:
        assert b["softmax/W"].shape == (20, 4)
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "hf")]) == REFUSED
    assert "use the format elmo" in capsys.readouterr().err
    assert cli.main(["import", str(tmp_path / "out"), str(tmp_path / "again")]) == DONE
    before, _ = load_params(tmp_path / "run" / "checkpoints")
    after, _ = load_params(tmp_path / "again" / "checkpoints")
    assert np.array_equal(before["head_table"], after["head_table"])
