"""The page of a sweep: what is on it, that its texts are text, and what it leaves out."""

import json
import re

import pytest

from gesso.configs.registry import experiment
from gesso.models.count import parameters
from gesso.pretrain.experiment import to_json
from gesso.reports.sweep.sweep import Trial, write_sweep_report

SIZES = {"1x32": (1, 32), "2x64": (2, 64), "4x<b>": (4, 128)}


def fabricated(folder, number, choice):
    """A run folder with an end: a loss that falls with size and with steps."""
    layers, embed = SIZES[choice["size"]]
    made = experiment("debug-gpt2", {"model.layers": layers, "model.embed": embed})
    run = folder / f"{number:04d}"
    run.mkdir(parents=True)
    (run / "experiment.json").write_text(json.dumps(to_json(made)))
    loss = 5.0 - 0.05 * layers - 0.4 * choice["steps"] / 100
    steps = choice["steps"]
    records = [
        {"kind": "train", "step": steps, "time": 1.0, "tokens": 2048, "loss": loss},
        {"kind": "evaluation", "step": steps // 2, "time": 1.0, "loss": loss + 0.3},
        {"kind": "evaluation", "step": steps, "time": 1.0, "loss": loss},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return Trial(
        number=number, state="complete", value=loss, choice=choice, folder=run,
        command=f"gesso pretrain x --steps {choice['steps']}",
        parameters=parameters(made.model)["matmul"],
    )  # fmt: skip


@pytest.fixture
def trials(tmp_path):
    choices = [{"size": size, "steps": steps} for size in SIZES for steps in (50, 100, 200)]
    return [fabricated(tmp_path, i, choice) for i, choice in enumerate(choices)]


def test_a_sweep_of_sizes_has_results_choices_and_a_law(trials, tmp_path):
    path = write_sweep_report(
        "<sizes>", trials, tmp_path / "sweep.html", metric="loss", bootstraps=5
    )
    page = path.read_text()
    assert "&lt;sizes&gt;" in page and "4x&lt;b&gt;" in page and "<b>" not in page.split("<nav>")[0]
    for key in ("choices", "law", "results"):
        assert f'<section id="{key}">' in page
    assert len(re.findall("<svg", page)) == 6
    assert "through the ends of 9 runs" in page
    assert "gesso pretrain x --steps 50" in page
    assert not re.search(r"(src|href)=\"https?:", page), "it loads nothing"
    assert page.count("#a0000") == page.count("#b0000") == 0, "every colour has its name"


def test_a_sweep_of_rates_has_no_law(trials, tmp_path):
    same = [t for t in trials if t.choice["size"] == "1x32"]
    page = write_sweep_report(
        "rates", same, tmp_path / "sweep.html", metric="loss", bootstraps=5
    ).read_text()
    assert 'id="law"' not in page and 'id="results"' in page


def test_failed_and_unfinished_trials_are_said(trials, tmp_path):
    failed = Trial(
        number=99, state="fail", value=None, choice={"size": "x"}, folder=tmp_path / "no"
    )
    running = Trial(number=98, state="running", value=None, choice={}, folder=tmp_path / "none")
    every = [*trials, failed, running]
    page = write_sweep_report(
        "s", every, tmp_path / "sweep.html", metric="loss", bootstraps=5
    ).read_text()
    assert "Trial 99 failed" in page and "1 failed" in page and "running" in page
    empty = write_sweep_report(
        "s", [running], tmp_path / "sweep.html", metric="loss", bootstraps=5
    ).read_text()
    assert "A sweep of 1 runs" in empty
