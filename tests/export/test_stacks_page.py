"""benchmarks.stacks: the page says what was measured, and a failure is not a figure."""

import json
import re
from dataclasses import asdict
from typing import get_args

import numpy as np
import pytest

from benchmarks.stacks import case, venvs
from benchmarks.stacks.__main__ import FAMILIES, PAGE, RESULTS, main
from benchmarks.stacks.case import Case, Refusal
from benchmarks.stacks.checkpoints import CONFIGS
from benchmarks.stacks.figure import Differs, Figure, Outcome, figure
from benchmarks.stacks.measure import CLIENTS, measured
from benchmarks.stacks.minilm import NAME
from benchmarks.stacks.page import failed, markdown
from gesso.models import build

RUN = {"date": "2026-01-02", "machine": "m", "seconds": 60.0}


def test_the_page_is_what_was_measured():
    document = json.loads(RESULTS.read_text())
    (found,) = re.findall(
        "<!-- generated: stacks -->\n(.*)\n<!-- end: stacks -->", PAGE.read_text(), re.DOTALL
    )
    assert found == markdown(document).strip(), "run `python -m benchmarks.stacks`"
    assert list(document["rows"]) == list(FAMILIES)
    for name, row in document["rows"].items():
        assert list(row["clients"]) == list(CLIENTS), name
        assert all(each["outcome"] in get_args(Outcome) for each in row["clients"].values())
        assert not failed(row), name
    assert document["rows"][NAME]["embeddings"]["apart"] < 1e-5


def test_the_page_has_a_cell_for_everything_and_a_reason_for_every_gap():
    no = Figure(outcome="refused", why="no graph for it")
    found = {
        "gpt2": {"a": Figure(outcome="measured", apart=2.44e-6, versions="a 1"), "b": no},
        "bert": {"a": Figure(outcome="measured", versions="a 1"), "b": no},
        "t5": {
            "a": Figure(outcome="failed", why="it fell"),
            "b": Figure(outcome="not run", why="no b"),
        },
    }
    rows = {
        name: RUN | {"clients": {client: asdict(each) for client, each in figures.items()}}
        for name, figures in found.items()
    }
    rows["t5"]["date"] = "2026-01-03"
    rows["theirs"] = RUN | {"clients": {}, "embeddings": {"outcome": "not run", "why": "absent"}}
    lines = markdown({"rows": rows}).splitlines()
    assert failed(rows["t5"]) and not failed(rows["gpt2"]) and not failed(rows["theirs"])
    assert lines == [
        "|  | a | b |",
        "| --- | --- | --- |",
        "| gpt2 | 2.4e-06 | no [1] |",
        "| bert | 0 | no [1] |",
        "| t5 | **failed** [2] | \u2013 [3] |",
        "",
        "1. no graph for it",
        "2. it fell",
        "3. no b",
        "",
        "theirs, embeddings: not run: absent",
        "",
        "Measured 2026-01-02 to 2026-01-03 by `python -m benchmarks.stacks` in 4 minutes (m), with"
        " a 1.",
    ]


def test_outputs_that_are_apart_absent_misshapen_or_no_numbers_are_no_figure():
    x = np.ones((2, 3))
    ours = {"a": x, "b": x, "ours": x}
    theirs = {"a": x + 1e-3, "b": x - 2e-3, "theirs": x}
    found = figure(ours, theirs, bound=3e-3, versions="v", same=("ids",))
    assert found.apart == pytest.approx(2e-3) and found.of == "a, b, ids"
    with pytest.raises(Differs, match="b is 2.0e-03 apart, and 1e-03 is allowed"):
        figure(ours, theirs, bound=1e-3, versions="v")
    with pytest.raises(Differs, match="a is nan apart"):
        figure(ours, {"a": x * np.nan, "b": x}, bound=1.0, versions="v")
    with pytest.raises(Differs, match=r"a has shape \[2, 3\] here and \[2, 2\] there"):
        figure(ours, {"a": x[:, :2]}, bound=1.0, versions="v")
    with pytest.raises(Differs, match="no output in common"):
        figure(ours, {"c": x}, bound=1.0, versions="v")


def test_what_is_refused_fails_or_has_no_client_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path))
    monkeypatch.delenv("GESSO_LM_EVAL_PYTHON", raising=False)
    exports = {"gguf": Refusal("no graph"), "onnx": RuntimeError("x" * 500 + "end"), "hf": tmp_path}
    each = Case(checkpoint=None, run=tmp_path, exports=exports)  # pyright: ignore
    assert measured("llama.cpp", each) == Figure(outcome="refused", why="no graph")
    failed = measured("onnxruntime", each)
    assert failed.outcome == "failed" and failed.why.endswith("end") and len(failed.why) <= 400
    assert measured("lm-eval", each).outcome == "not run"


def test_a_refused_command_is_its_message_and_a_failed_one_its_last_words(tmp_path):
    with pytest.raises(Refusal, match="^there is no .*nowhere"):
        case.gesso("export", str(tmp_path / "nowhere"), str(tmp_path / "out"))


def test_a_python_is_named_made_or_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path))
    for client in venvs.CLIENTS.values():
        monkeypatch.delenv(client.variable, raising=False)
    monkeypatch.setattr(venvs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(venvs.NoClient, match="GESSO_LLAMA_PYTHON names one"):
        venvs.python_of("llama-cpp")
    monkeypatch.setattr(venvs.importlib.util, "find_spec", lambda name: name == "xllamacpp")
    assert venvs.python_of("llama-cpp") == venvs.sys.executable
    made = tmp_path / "stacks" / "llama-cpp" / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.touch()
    assert venvs.python_of("llama-cpp") == str(made)
    monkeypatch.setenv("GESSO_LLAMA_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="GESSO_LLAMA_PYTHON is .*nowhere, and there is no such"):
        venvs.python_of("llama-cpp")
    monkeypatch.setenv("GESSO_LLAMA_PYTHON", str(made))
    assert venvs.python_of("llama-cpp") == str(made)


def test_a_mistyped_family_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--families", "gpt5"])
    assert stop.value.code == 2 and "gpt_neox" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
def test_every_checkpoint_is_a_model(name):
    config, kind = CONFIGS[name]
    assert build(config).letters and kind in ("bpe", "bytes", "wordpiece", "sentencepiece", "words")
