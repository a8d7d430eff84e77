"""The quickstart at toy size: all its stages, their traces on disk, and a second call."""

import json
from pathlib import Path

import pytest

from gesso.configs import registry
from gesso.launch.commands.quickstart import teach
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment
from gesso.pretrain.folder.claim import RunFolderError

TOY = {
    "data.store": "embedded:bytes:1",
    "model.vocab": 264,
    "model.layers": 1,
    "model.embed": 32,
    "model.heads": 2,
    "model.mlp": 64,
    "length": 64,
    "steps": 3,
    "optimizer.schedule.warmup_steps": 1,
    "logging.every_steps": 1,
    "evaluation.sample_tokens": 8,
}


def toy(**changes: int) -> Experiment:
    return registry.experiment("quickstart", TOY | changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_from_nothing_to_a_report_and_again(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GESSO_CACHE", str(cache))
    run = tmp_path / "run"
    assert teach(toy(), run, as_json=True) == DONE
    shown = capsys.readouterr()
    assert [f"{n}/6" in shown.err for n in range(1, 7)] == [True] * 6
    figures = json.loads(shown.out)
    assert 0 < figures["evaluation"]["bits_per_byte"] < 9
    assert len(figures["samples"]) == 3
    page = Path(figures["report"])
    assert page == run / "report.html"
    assert "gesso generate" in shown.err
    # The report's are those of the held-out rows its curve is made of.
    drawn = json.loads((run / "corpus.json").read_text())["baselines"]
    assert drawn.keys() == figures["evaluation"]["baselines"].keys()
    metrics = (run / "metrics.jsonl").read_text()

    page.unlink()
    assert teach(toy(), run, as_json=False) == DONE
    assert page.exists()
    trained = [
        line for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line
    ]
    assert trained == [line for line in metrics.splitlines() if '"train"' in line]


def test_a_folder_of_another_run_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").touch()
    with pytest.raises(RunFolderError, match="not a run"):
        teach(toy(), tmp_path / "run", as_json=False)
    assert not (tmp_path / "cache").exists()
