"""I6: a program that gives the model's outputs where none of our code is, at any size it allows."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params

from gesso.export import FolderError
from gesso.export.stacks import stablehlo
from gesso.models import ELMoConfig, build

pytest.importorskip("flatbuffers")

# What docs/stacks.md tells readers to write.
LOADER = """
import json, sys
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

folder, batch = sys.argv[1], dict(np.load(sys.argv[2]))
program = export.deserialize(bytearray(open(f"{folder}/program.stablehlo", "rb").read()))
outputs = program.call(load_file(f"{folder}/model.safetensors"), batch)
ours = {"models", "export", "partitioning", "flax"} & set(sys.modules)
assert not ours, f"needed {ours}"
np.savez(sys.argv[3], **outputs)
"""


def run_elsewhere(folder, batch, tmp_path):
    np.savez(tmp_path / "batch.npz", **batch)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", LOADER, folder, tmp_path / "batch.npz", tmp_path / "made.npz"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        cwd=tmp_path,
    )
    return done, (dict(np.load(tmp_path / "made.npz")) if done.returncode == 0 else {})


def batch_for(config, rows, length):
    random = np.random.default_rng(1)
    batch = {"tokens": random.integers(2, config.vocab, (rows, length), np.int32)}
    batch["segments"] = np.ones((rows, length), np.int32)
    batch["segments"][0, -2:] = 0
    batch |= {"token_types": np.ones((rows, length), np.int32)} if config.family == "bert" else {}
    return stablehlo.whole_batch(config, batch)


@pytest.mark.parametrize("name", ["gpt_neo", "bert"])
def test_a_fresh_process_without_our_code_gives_the_same_outputs(name, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    written = stablehlo.write(tmp_path / "out", config, params)
    assert written.files["program.stablehlo"] < 100_000  # the weights are not in it
    about = json.loads((tmp_path / "out" / "program.json").read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["config"]["family"] == config.family
    batch = batch_for(config, 3, 13)
    done, made = run_elsewhere(tmp_path / "out", batch, tmp_path)
    assert done.returncode == 0, done.stderr
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(build(config).apply)(params, batch)
    assert made.keys() == ours.keys() == set(about["outputs"])
    for key, x in ours.items():  # one XLA, one program: rounding alone may differ
        assert np.abs(made[key] - np.asarray(x)).max() <= 1e-5 * np.abs(x).max(), key
    longer = batch_for(dataclasses.replace(config, positions=99), 1, config.longest + 1)
    done, _ = run_elsewhere(tmp_path / "out", longer, tmp_path)
    assert done.returncode != 0 and f"l <= {config.longest}" in done.stderr


def test_every_attention_becomes_one_whose_length_is_open():
    config = CONFIGS["bert2gpt"]
    assert config.encoder.attention == config.decoder.attention == "blocks"
    plain = stablehlo.portable(config)
    assert plain.encoder.attention == plain.decoder.attention == "dense"
    assert dataclasses.replace(plain.encoder, attention="blocks") == config.encoder


def test_what_cannot_be_written_is_refused_and_nothing_left(tmp_path, monkeypatch):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    with pytest.raises(FolderError, match="elmo models read their rows in a loop"):
        stablehlo.write(tmp_path / "a", ELMoConfig(), {})
    with pytest.raises(FolderError, match="not those of the config: head_table"):
        stablehlo.write(tmp_path / "a", CONFIGS["gpt2-other"], params)
    wrong = params | {"embed": params["embed"][:, :-1]}
    with pytest.raises(FolderError, match=r"embed has shape \[37, 11\], and not VD\[37,12\]"):
        stablehlo.write(tmp_path / "a", config, wrong)
    infinite = params | {"embed": params["embed"] * np.inf}
    with pytest.raises(FolderError, match="NaN or infinite"):
        stablehlo.write(tmp_path / "a", config, infinite)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "flatbuffers" else find(name)
    )
    with pytest.raises(FolderError, match=r"pip install 'gesso\[export\]'"):
        stablehlo.write(tmp_path / "a", config, params)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_differs_is_refused(tmp_path, monkeypatch):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    other = dataclasses.replace(stablehlo.portable(config), epsilon=1.0)
    monkeypatch.setattr(stablehlo, "portable", lambda config: other)
    with pytest.raises(FolderError, match="does not give the model's outputs in the program"):
        stablehlo.write(tmp_path / "a", config, params)
    assert list(tmp_path.iterdir()) == []
