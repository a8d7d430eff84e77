"""A run in stages: what is trained changes, nothing else does; and a run begun with another's."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.models.trees import flat
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.checks import validate
from gesso.pretrain.config import ScheduleConfig, StageConfig, StartConfig
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import ExperimentError, override
from gesso.pretrain.open import open_run
from gesso.pretrain.phases import phase_experiment, schedule_range
from gesso.pretrain.session import run
from gesso.pretrain.stages import keep_moments
from gesso.records.metrics import read_metrics

SMALL = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 16,
    "model.mlp": 32,
    "model.positions": 32,
    "length": 32,
    "batch": 8,
    "steps": 2,
    "optimizer.schedule": ScheduleConfig(),
    "optimizer.layer_decay": 0.5,
    "optimizer.multipliers": {},
    "checkpoint.every_steps": 100,
    "checkpoint.keep_last": 10,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 0,
    "evaluation.sample_every_steps": 0,
}
STAGES = (
    StageConfig(
        until=3,
        trainable=("blocks/*", "norm/*"),
        first_layer=-1,
        learning_rate=2e-3,
        schedule=ScheduleConfig(kind="stlr", final=1 / 32, warmup_steps=1),
    ),
    StageConfig(until=5, trainable=("!embed",)),
)


def small(**changes):
    return override(configs.experiment("debug-gpt-neo"), SMALL | changes)


def staged(source, **changes):
    named = {"stages": STAGES, "steps": 7, "start": StartConfig(source=str(source))}
    return small(**(named | changes))


def figures(folder):
    timed = {"time", "seconds", "seconds_left", "tokens_per_second", "data_wait_fraction", "mfu"}
    records = [r for r in read_metrics(folder) if r["kind"] == "train"]
    return {r["step"]: {k: v for k, v in r.items() if k not in timed} for r in records}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "source"
    assert run(small(), folder=folder).status == DONE
    return folder


@pytest.fixture(scope="module")
def whole(source):
    """The uninterrupted run; a checkpoint after every update."""
    folder = source.parent / "whole"
    assert run(staged(source, **{"checkpoint.every_steps": 1}), folder=folder).step == 7
    return folder


def test_what_is_frozen_keeps_its_bits_through_a_stage(source, whole):
    at = {step: flat(open_run(whole, step=step).params) for step in range(1, 8)}
    at[0] = flat(open_run(source).params)
    for step in (1, 2, 3):
        for name, leaf in at[step].items():
            before = at[step - 1][name]
            if name.startswith("blocks/"):
                np.testing.assert_array_equal(leaf[0], before[0], err_msg=name)
                assert np.any(leaf[1] != before[1]), name
            else:
                same = np.array_equal(leaf, before)
                assert same == (not name.startswith("norm/")), name
    for step in (4, 5):
        for name, leaf in at[step].items():
            assert np.array_equal(leaf, at[step - 1][name]) == (name == "embed"), name
    for name, leaf in at[7].items():
        assert not np.array_equal(leaf, at[6][name]), name


def test_every_stage_has_its_own_schedule_and_the_rows_go_on(whole):
    records = figures(whole)
    assert [records[step]["rows"] for step in range(1, 8)] == [
        [8 * step, 8 * step + 8] for step in range(7)
    ]
    rates = [records[step]["learning_rate"] for step in range(1, 8)]
    peak = small().optimizer.learning_rate
    slanted = [2e-3 * (1 / 32 + 31 / 32 * p) for p in (0, 1, 0.5)]
    np.testing.assert_allclose(rates, [*slanted, *[peak] * 4], rtol=1e-6)


def test_a_start_is_told_parameter_by_parameter(source, whole):
    told = json.loads((whole / "start.json").read_text())
    assert told["sources"] == {"source": {"run": str(source), "step": 2}}
    rows = {row["name"]: row for row in told["parameters"]}
    assert rows["blocks/mlp/up"]["trained"] == "top 1 > trained > trained"
    assert rows["embed"]["trained"] == "frozen > frozen > trained"
    assert {row["origin"] for row in rows.values()} == {"loaded"}
    assert "top 1 > trained" in (whole / "log.txt").read_text()


@pytest.mark.parametrize("stop", [2, 3, pytest.param(6, marks=pytest.mark.slow)])
def test_restarted_inside_a_stage_is_uninterrupted(source, whole, tmp_path, stop):
    """Bit for bit: inside the first stage, exactly at its end, and inside the last."""
    folder = tmp_path / "run"
    asked = staged(source)
    stopped = StopAfter(stop)
    with stopped:
        run(asked, folder=folder)
    result = run(asked, folder=folder)
    assert result.step == 7
    assert figures(folder) == figures(whole)
    a, b = open_run(folder), open_run(whole)
    assert jax.tree.all(jax.tree.map(np.array_equal, a.params, b.params))


@pytest.mark.slow
def test_a_stage_goes_on_on_another_mesh_and_is_evaluated_whole(source, whole, tmp_path):
    """Stopped on one mesh inside the first stage, continued on another that splits everything; the
    loss of held-out text in the loop is that of the checkpoint's whole parameters."""
    from gesso.evaluation.heldout.perplexity import evaluate_heldout
    from gesso.objectives.kinds import build as build_objective

    asked = staged(source)
    with StopAfter(2):
        run(asked, folder=tmp_path / "run")
    split = {"mesh": MeshConfig(data=2, fsdp=2, tensor=2), "layout": "fsdp_tensor"}
    evaluated = {"evaluation.every_steps": 3, "evaluation.rows": 8, "checkpoint.every_steps": 1}
    run(override(asked, split | evaluated), folder=tmp_path / "run")
    ours, theirs = figures(tmp_path / "run"), figures(whole)
    assert ours.keys() == theirs.keys()
    for step, record in ours.items():
        assert record["batch_crc32"] == theirs[step]["batch_crc32"]
        assert record["loss"] == pytest.approx(theirs[step]["loss"], abs=2e-5)
    told = {r["step"]: r for r in read_metrics(tmp_path / "run") if r["kind"] == "evaluation"}
    opened = open_run(tmp_path / "run", step=3)
    objective = build_objective(asked.objective, tokenizer=opened.tokenizer, model=asked.model)
    again = evaluate_heldout(
        opened.model, objective, opened.params, opened.store(), length=32, rows=8, batch=8
    )
    assert told[3]["loss"] == pytest.approx(again["loss"], abs=1e-5)


class StopAfter:
    """Preempts a run after an update, as a signal would."""

    def __init__(self, step):
        self._step, self._patch = step, pytest.MonkeyPatch()

    def __enter__(self):
        from gesso.pretrain.failures.preemption import Preemption

        self._patch.setattr(Preemption, "must_stop", lambda _, step: step >= self._step)

    def __exit__(self, *_):
        self._patch.undo()


def test_moments_of_what_was_trained_stay_and_others_are_fresh():
    def state(layers, **more):
        mu = {"blocks": {"q": np.full((layers, 2), 7.0)}} | more
        count = {"blocks": {"q": np.full((layers,), 5)}} | {n: np.int32(5) for n in more}
        return ({"count": count, "mu": mu}, np.int32(9))

    def fresh(tree):
        return jax.tree.map(lambda x: np.zeros_like(x), tree)

    before = state(1, norm=np.full(3, 7.0))
    after = keep_moments(fresh(state(3, norm=np.zeros(3), embed=np.zeros(4))), before)
    np.testing.assert_array_equal(after[0]["mu"]["blocks"]["q"][:, 0], [0, 0, 7])
    np.testing.assert_array_equal(after[0]["count"]["blocks"]["q"], [0, 0, 5])
    assert after[0]["mu"]["norm"].tolist() == [7, 7, 7]
    assert after[0]["mu"]["embed"].tolist() == [0, 0, 0, 0]
    assert after[0]["count"]["embed"] == 0
    assert after[1] == 0, "the schedule's own count begins anew"
    fewer = keep_moments(fresh(state(1)), state(3))
    assert fewer[0]["mu"]["blocks"]["q"].tolist() == [[7, 7]]


def test_stages_that_cannot_be():
    def refused(match, **changes):
        with pytest.raises(ExperimentError, match=match):
            validate(small(**changes), devices=8)

    refused("stages end after updates", stages=STAGES, steps=5)
    refused("leave out one", stages=STAGES, steps=7, phases=configs.experiment("bert-base").phases)
    refused("optimizer muon has no rule", stages=STAGES, steps=7, **{"optimizer.name": "muon"})
    refused("layer_decay must be in", **{"optimizer.layer_decay": 0.0})
    refused("have no effect without a source", start=StartConfig(rename={"a/*": "b/*"}))
    refused("sides of a model of the family", start=StartConfig(encoder="runs/x"))


def test_a_stage_is_the_experiment_with_its_own_settings():
    e = small(stages=STAGES, steps=7)
    first = phase_experiment(e, 0)
    assert first.trainable == ("blocks/*", "norm/*")
    assert first.optimizer.learning_rate == 2e-3
    assert phase_experiment(e, 1).optimizer.learning_rate == e.optimizer.learning_rate
    assert [schedule_range(e, k) for k in range(3)] == [range(3), range(3, 5), range(5, 7)]
    assert phase_experiment(e, 2) == e
    assert schedule_range(dataclasses.replace(e, stages=()), 0) == range(7)
