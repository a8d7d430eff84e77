"""Every setting that a format does not refuse, in the format's own runtime: the same outputs.

Slow, and each skipped where the runtime is not installed: transformers in the Python that
GESSO_TRANSFORMERS_PYTHON names, ctranslate2 and onnxruntime as tests/export/clients.py finds them.
"""

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest
from clients import run_client
from foreign_folders import CONFIGS, random_params
from other_settings import variations

from gesso.export.agreement import Agreement, outputs, probe
from gesso.export.formats import format_for
from gesso.export.parity import SCRIPT, their_batch
from gesso.export.stacks.stacks import write_stack
from gesso.export.stacks.to_ctranslate2 import model as ctranslate2_model
from gesso.export.stacks.to_gguf import model as gguf_model
from gesso.export.writing import write_folder

PYTHON = os.environ.get("GESSO_TRANSFORMERS_PYTHON", "")
# Many folders in one process: importing torch takes longer than running all of them.
MANY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import theirs
for folder, asked, made in json.loads(sys.argv[2]):
    theirs.main(folder, asked, made)
"""
NAMES = {
    "logits": ("logits",),
    "features": ("last_hidden_state", "features"),
    "labels": ("logits",),
    "tags": ("logits",),
    "start": ("start_logits",),
    "end": ("end_logits",),
    "next_sentence": ("seq_relationship_logits",),
}


def unrefused(declared, config):
    """One variation of every field that a format expresses and an output may depend on."""
    found = {}
    for each in variations(config):
        neutral = each.field.rpartition(".")[2] in declared.neutral(config)
        # A decoder's labels: transformers asks for a padding id, see test_gpt_labels.py.
        labels = config.family == "gpt" and each.config.outputs
        if not neutral and not labels and not declared.problems(each.config):
            found.setdefault(each.field, each)
    return found


def same(ours, theirs, mask, told):
    """Whether their outputs are ours, where there is no padding."""
    shared = [
        (ours[name], theirs[its])
        for name, names in NAMES.items()
        for its in names
        if name in ours and its in theirs and (name != "labels" or "logits" not in ours)
    ]
    assert shared, (told, sorted(theirs))
    for x, y in shared:
        y = y[mask] if y.shape[:2] == mask.shape and x.shape != y.shape else y
        assert x.shape == y.shape, told
        assert np.abs(x - y).max() <= 5e-5 * max(1.0, np.abs(x).max()), told


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="GESSO_TRANSFORMERS_PYTHON is not set")
@pytest.mark.parametrize("name", [n for n, c in CONFIGS.items() if c.family != "encoder_decoder"])
def test_transformers_computes_every_setting(name, tmp_path, monkeypatch):
    nothing = Agreement(apart=0.0, bound=0.0, outputs=())
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: nothing)
    found = unrefused(format_for(CONFIGS[name]).expresses, CONFIGS[name])
    runs, ours = [], {}
    for field, each in found.items():
        params, batch = random_params(each.config), probe(each.config)
        write_folder(tmp_path / field, each.config, params)
        given, made = tmp_path / f"{field}.asked.npz", tmp_path / f"{field}.made.npz"
        arrays: dict[str, Any] = dict(their_batch(each.config, batch))
        np.savez(given, **arrays)
        runs.append([str(tmp_path / field), str(given), str(made)])
        ours[field] = outputs(each.config, params, batch), batch["segments"] != 0
    command = [PYTHON, "-W", "ignore", "-c", MANY, str(SCRIPT.parent), json.dumps(runs)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | offline
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    for field, each in found.items():
        with np.load(tmp_path / f"{field}.made.npz") as theirs:
            same(ours[field][0], dict(theirs), ours[field][1], str(each))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt_j", "gpt_neox", "bert"])
def test_ctranslate2_computes_every_setting(name, tmp_path):
    found = unrefused(ctranslate2_model.EXPRESSES[CONFIGS[name].family], CONFIGS[name])
    for field, each in found.items():
        params, batch = random_params(each.config), probe(each.config, rows=1)
        batch = {leaf: x for leaf, x in batch.items() if leaf in ("tokens", "token_types")}
        ctranslate2_model.write(tmp_path / field, each.config, params)
        kind = "encoder" if each.config.family == "bert" else "decoder"
        made = run_client("ct2", tmp_path / field, tmp_path, kind=kind, **batch)
        ours = outputs(each.config, params, batch)
        same(ours, made, np.ones((1, 16), bool), str(each))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "bert", "t5"])
def test_onnxruntime_computes_every_setting(name, tmp_path):
    """The writer itself runs the graph and refuses another's outputs."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    declared = {"gpt": gguf_model, "bert": gguf_model}.get(CONFIGS[name].family, ctranslate2_model)
    for field, each in unrefused(declared.EXPRESSES[CONFIGS[name].family], CONFIGS[name]).items():
        written = write_stack(
            tmp_path / field, each.config, random_params(each.config), format="onnx"
        )
        assert written.agreement.outputs != ("graph",), str(each)
