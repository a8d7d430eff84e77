"""What is carried from batch to batch: restarted = uninterrupted, microbatches, other meshes."""

import json
import shutil

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.checks import validate
from gesso.pretrain.config import PhaseConfig
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import ExperimentError, override
from gesso.pretrain.open import open_run
from gesso.pretrain.session import run
from gesso.records.metrics import read_metrics

SMALL = {
    "data.store": "embedded:words:0.3",
    "model.vocab": 4096,
    "model.characters": 8,
    "model.filters": ((1, 8), (2, 8)),
    "model.character_embed": 4,
    "model.embed": 16,
    "model.cell": 32,
    "model.dropout": 0.1,
    "length": 12,
    "batch": 8,
    "steps": 8,
    "optimizer.schedule.kind": "constant",
    "optimizer.schedule.warmup_steps": 2,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 10,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 0,
    "mesh": MeshConfig(data=2, fsdp=2, tensor=2),
    "layout": "fsdp_tensor",
}
TIMED = {"time", "seconds", "seconds_left", "tokens_per_second", "data_wait_fraction"}


def small(**changes):
    return override(configs.experiment("debug-elmo"), SMALL | changes)


def train_records(folder):
    return {r["step"]: r for r in read_metrics(folder) if r["kind"] == "train"}


def killed(whole, folder, *, after):
    """The run as it is when it died: with the checkpoints up to `after` and no later one."""
    shutil.copytree(whole, folder)
    for step in range(after + 1, 9):
        shutil.rmtree(folder / "checkpoints" / str(step))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert run(small(), folder=folder).status == DONE
    return folder


def test_restarted_is_uninterrupted_bit_for_bit(whole, tmp_path):
    """I2 with a state that is carried: every figure of every step, and every parameter."""
    folder = killed(whole, tmp_path / "run", after=3)
    assert run(small(), folder=folder).step == 8
    a, b = train_records(whole), train_records(folder)
    assert sorted(a) == sorted(b) == list(range(1, 9))
    for step in a:
        assert {k: v for k, v in a[step].items() if k not in TIMED} == {
            k: v for k, v in b[step].items() if k not in TIMED
        }
    one, two = open_run(whole), open_run(folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, two.params))


def test_the_carried_state_is_used_and_saved(whole, tmp_path):
    """Started again without it, the next losses are others."""
    manifest = next((whole / "checkpoints" / "3").rglob("*manifest*.json"))
    saved = json.dumps(json.loads(manifest.read_text()))
    assert "carry/cell" in saved
    assert "carry/hidden" in saved
    from gesso.pretrain import session as module

    folder = killed(whole, tmp_path / "run", after=3)
    original = module.Checkpoints.restore

    def forgetful(self, abstract, step=None):
        restored = original(self, abstract, step)
        zeros = jax.tree.map(lambda x: x * 0, restored.state["carry"])
        restored.state["carry"] = zeros
        return restored

    module.Checkpoints.restore = forgetful
    try:
        run(small(), folder=folder)
    finally:
        module.Checkpoints.restore = original
    a, b = train_records(whole), train_records(folder)
    assert a[4]["batch_crc32"] == b[4]["batch_crc32"]
    assert a[4]["loss"] != b[4]["loss"]


@pytest.mark.slow
def test_another_mesh_and_microbatches_carry_the_same(tmp_path):
    """I1, I3: without dropout, whose keys differ by microbatch, eight updates agree."""
    plain = {"model.dropout": 0.0}
    run(small(**plain), folder=tmp_path / "whole")
    changed = {"mesh": MeshConfig(data=4, tensor=2), "layout": "tensor", "microbatches": 2}
    folder = killed(tmp_path / "whole", tmp_path / "run", after=4)
    run(small(**plain, **changed), folder=folder)
    a, b = train_records(tmp_path / "whole"), train_records(folder)
    for step in range(5, 9):
        assert a[step]["batch_crc32"] == b[step]["batch_crc32"]
        for name in ("loss", "forward", "backward"):
            assert b[step][name] == pytest.approx(a[step][name], abs=2e-5)


def test_what_cannot_be_is_refused():
    for changes, told in (
        ({"data.packing": "best_fit"}, "a carried state needs packing stream"),
        ({"objective.state": "reset"}, "starts every row anew"),
        ({"phases": (PhaseConfig(until=2, length=6, batch=4),)}, "one batch size only"),
        (
            {"mesh": MeshConfig(data=2, sequence=4), "layout": "fsdp", "length": 16},
            "one token after the other",
        ),
        ({"model.cell": 31}, "model.cell 31 does not divide"),
    ):
        with pytest.raises(ExperimentError, match=told):
            validate(small(**changes), devices=8)
