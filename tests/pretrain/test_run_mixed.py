"""A run of several objectives, continued on other devices: every row is accounted for."""

from pathlib import Path

import pytest
from mixed_worker import BATCH, MIX, experiment
from processes import run_processes

from gesso.partitioning.config import MeshConfig
from gesso.pretrain.exits import DONE
from gesso.pretrain.open import store_of
from gesso.pretrain.session import run
from gesso.pretrain.setup import set_up
from gesso.records.metrics import read_metrics

WORKER = str(Path(__file__).with_name("mixed_worker.py"))


def records(folder):
    return {r["step"]: r for r in read_metrics(folder) if r["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "whole"
    evaluation = {"evaluation.every_steps": 10, "evaluation.rows": 4}
    run(experiment(**evaluation), folder=folder)
    return folder


def test_counts_are_the_pure_function_of_row_numbers(whole):
    setup = set_up(experiment(), store=store_of(experiment()))
    for step, record in records(whole).items():
        rows = setup.order.rows((step - 1) * BATCH, BATCH)
        part_of = setup.objective.part_of(rows["row"])
        batch = setup.objective.host_batch(rows)
        for index, name in enumerate(MIX.parts):
            places = int(batch[f"{name}_weight"].sum())
            mine = int((part_of == index).sum())
            assert record["counts"][f"{name}_weight"] == [mine, places]
        assert record["loss"] == pytest.approx(record["r_nll"] + 0.5 * record["s_nll"], rel=1e-5)
    mine = [record["counts"]["s_weight"][0] for record in records(whole).values()]
    assert 0 < sum(mine) < 80 and len(set(mine)) > 1


def test_continued_on_another_device_count_every_row_is_accounted_for(whole, tmp_path):
    """I2 of a mix: 8 devices, then two processes of 2, then 8 again, split in another way."""
    folder = tmp_path / "run"
    run(experiment(steps=4), folder=folder)
    two = run_processes([WORKER, str(folder), "7"], count=2, devices=2, timeout_seconds=300)
    assert [ended.code for ended in two] == [DONE] * 2, two[0].output[-2000:]
    mesh = {"mesh": MeshConfig(data=2, sequence=2, tensor=2), "layout": "tensor"}
    run(experiment(**mesh, microbatches=2), folder=folder, named={"steps"})
    a, b = records(whole), records(folder)
    assert sorted(a) == sorted(b) == list(range(1, 11))
    for step in a:
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens", "counts"):
            assert a[step][key] == b[step][key], (step, key)
        # Ten updates of float32 sums in another order.
        assert b[step]["loss"] == pytest.approx(a[step]["loss"], abs=5e-5)
    assert sum(r["counts"]["r_weight"][0] + r["counts"]["s_weight"][0] for r in b.values()) == 80


def test_held_out_terms_are_on_record_beside_a_unigram_model(whole):
    (evaluation,) = (r for r in read_metrics(whole) if r["kind"] == "evaluation")
    assert set(evaluation["terms"]) == {"r_nll", "r_accuracy", "s_nll", "s_accuracy"}
    for name, term in evaluation["terms"].items():
        assert term["count"] > 0
        assert ("unigram_nll" in term) == name.endswith("nll") and "unigram_accuracy" in term
    for key in ("bits_per_byte", "word_perplexity", "words"):
        assert evaluation[key] is None
    assert "NaN" not in (whole / "metrics.jsonl").read_text()
    assert "r_nll" in (whole / "log.txt").read_text()
    assert "Terms of the objective" in (whole / "report.html").read_text()
