"""`gesso task`, and a task from files to scores: build, inspect, train, evaluate, report."""

import json

import numpy as np
import pytest

from gesso.launch import cli
from gesso.pretrain.exits import DONE, REFUSED

TINY = [
    "--model.layers", "1", "--model.embed", "16", "--model.heads", "2", "--model.mlp", "16",
    "--model.positions", "48", "--length", "48", "--batch", "8", "--steps", "2",
    "--model.labels", "2", "--model.vocab", "260", "--logging.no-tensorboard",
    "--objective.cls", "257", "--objective.sep", "258", "--objective.end", "259",
    "--evaluation.every-steps", "2", "--checkpoint.every-steps", "2",
]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    lines = [
        {"review": f"film {i} was " + ("fine", "bad")[i % 2], "stars": i % 2} for i in range(40)
    ]
    path = tmp_path / "films.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + "{\n")
    return path


def build(files, tmp_path, *more):
    asked = ["task", "build", str(files), str(tmp_path / "store"), "--task", "classify"]
    return cli.main([*asked, "--texts", "review", "--label", "stars", *more])


def test_build_and_inspect(files, tmp_path, capsys):
    assert build(files, tmp_path, "--labels", "good", "poor", "--json") == DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts["rejects"] == {"bad_json": 1} and facts["labels"] == ["good", "poor"]
    assert sum(facts["count"].values()) == 40 and facts["counts"]["records"] == 41
    folder = str(tmp_path / "store")
    assert cli.main(["task", "inspect", folder, "--length", "16", "--examples", "1"]) == DONE
    out = capsys.readouterr().out
    assert "--model.labels 2" in out and "examples are cut" in out and "film 0 was fine" in out
    assert cli.main(["task", "inspect", folder, "--json", "--length", "20"]) == DONE
    assert json.loads(capsys.readouterr().out)["cut"]["train"]["cut"] >= 0


def test_a_store_of_examples_is_not_inspected_as_text(files, tmp_path, capsys):
    build(files, tmp_path)
    capsys.readouterr()
    assert cli.main(["corpus", "inspect", str(tmp_path / "store")]) == REFUSED
    assert "gesso task inspect" in capsys.readouterr().err


def test_what_is_wrong_is_said(files, tmp_path, capsys):
    assert cli.main(["task", "build", str(files), "--task", "sst2"]) == REFUSED
    assert "the files and then the store" in capsys.readouterr().err
    assert build(files, tmp_path, "--labels", "1", "2") == REFUSED
    assert "films.jsonl:1: unknown_label" in capsys.readouterr().err
    assert cli.main(["task", "inspect", str(tmp_path)]) == REFUSED
    assert "gesso task build makes one" in capsys.readouterr().err
    assert cli.main(["task", "build", str(files), str(files), "--task", "sst2"]) == REFUSED
    assert "is a file" in capsys.readouterr().err


def test_from_files_to_scores(files, tmp_path, capsys):
    assert build(files, tmp_path) == DONE
    run, store = str(tmp_path / "run"), str(tmp_path / "store")
    asked = ["pretrain", "debug-classify", "--folder", run, "--data.store", store, *TINY]
    assert cli.main(asked) == DONE
    records = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = [each for each in records if each["kind"] == "evaluation"][-1]
    capsys.readouterr()
    assert cli.main(["evaluate", run, "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert np.isclose(found["loss"], last["loss"], rtol=1e-5)
    assert found["task"]["scores"]["accuracy"] == last["task"]["scores"]["accuracy"]
    kept = np.load(found["predictions"])
    assert kept["logits"].shape == (found["task"]["examples"], 2)
    assert cli.main(["evaluate", run]) == DONE
    assert "baseline" in capsys.readouterr().out
    assert cli.main(["evaluate", run, "--components", "x"]) == REFUSED
    assert cli.main(["report", run]) == DONE
    page = (tmp_path / "run/report.html").read_text()
    assert 'id="task"' in page and "Reliability" in page
    capsys.readouterr()
    plain = [each for each in asked if each not in ("--data.store", store)]
    assert (
        cli.main([*plain, "--folder", f"{run}2", "--data.store", "embedded:bytes:0.3"]) == REFUSED
    )
    assert "reads a store of labelled examples" in capsys.readouterr().err
