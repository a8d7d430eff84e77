"""I6: exported folders load in transformers and give the same outputs, layer by layer.

Needs another Python that has torch and transformers, named in GESSO_TRANSFORMERS_PYTHON; skipped
without. What it measured is in docs/stacks.md.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params

from gesso.data.tokenizers.load import load_tokenizer
from gesso.export import FolderError, write_folder
from gesso.export.parity import SCRIPT, parity, run_theirs
from gesso.launch import cli
from gesso.pretrain.exits import REFUSED

PYTHON = os.environ.get("GESSO_TRANSFORMERS_PYTHON", "")
needs_theirs = pytest.mark.skipif(not PYTHON, reason="GESSO_TRANSFORMERS_PYTHON is not set")


@needs_theirs
@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_gives_the_same_outputs(name, tmp_path):
    config = CONFIGS[name]
    write_folder(tmp_path / "out", config, random_params(config))
    found = parity(tmp_path / "out", python=PYTHON)
    # An encoder's pooler, which an encoder-decoder never reads, may be drawn anew.
    assert not [each for each in found.missing if "encoder.pooler" not in each]
    assert not found.unexpected
    outputs = {each.output.partition("/")[0] for each in found.differences}
    assert len(outputs) >= 2 and any("hidden" in each for each in outputs)
    for each in found.differences:
        # float32 rounding over two or three layers, as a share of the values
        assert each.apart <= 5e-5 * max(1.0, each.largest), each


@needs_theirs
@pytest.mark.slow
def test_transformers_tokenizes_and_generates_alike(tmp_path):
    import dataclasses

    from gesso.evaluation.generation.decoder import generate
    from gesso.models import build

    config = dataclasses.replace(CONFIGS["gpt2"], vocab=260)
    params, tokenizer = random_params(config), load_tokenizer("bytes")
    write_folder(tmp_path / "out", config, params, tokenizer)
    text = "na\u00efve  def"
    ids = tokenizer.encode(text).astype(np.int32)
    batch = {"input_ids": ids[None], "new_tokens": np.array(6), "texts": np.array([text])}
    theirs = run_theirs(tmp_path / "out", batch, python=PYTHON)
    assert (theirs["ids/0"] == ids).all()
    ours = generate(build(config), params, tokenizer, [text], max_tokens=6)[0]
    assert ours == tokenizer.decode(theirs["generated"][0, len(ids) :])


def test_without_transformers_the_command_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GESSO_TRANSFORMERS_PYTHON", raising=False)
    found = importlib.util.find_spec
    without = {"torch": None, "transformers": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: without.get(name, name) and found(name)
    )
    assert cli.main(["parity", str(tmp_path)]) == REFUSED
    assert "pip install torch transformers" in capsys.readouterr().err


def test_the_script_does_not_hide_their_libraries():
    """Python puts the script's folder first, and `tokenizers` is a folder of ours there."""
    code = "import theirs; theirs.leave_folder(); import tokenizers; print(tokenizers.__file__)"
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); {code}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(SCRIPT.parent))


def test_a_python_without_transformers_is_named(tmp_path):
    if importlib.util.find_spec("torch"):
        pytest.skip("this Python has torch")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FolderError, match="No module named 'torch'"):
        run_theirs(tmp_path, {"input_ids": np.zeros((1, 2), np.int32)}, python=sys.executable)
    with pytest.raises(FolderError, match="there is no Python at"):
        run_theirs(tmp_path, {}, python=str(tmp_path / "python"))
