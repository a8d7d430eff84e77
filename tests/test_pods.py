"""The recommended slices are for the experiments as they are, and every experiment has one."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.pods_page import sent
from benchmarks.pods_rows import PODS, Row, settings_hash, shipped
from gesso.configs.registry import experiment
from gesso.planning.topology import topology

ROOT = Path(__file__).parents[1]
RECOMMENDED = json.loads((ROOT / "benchmarks/results/recommended.json").read_text())
BY_EXPERIMENT = {each["experiment"]: each for each in RECOMMENDED.values()}


@pytest.mark.parametrize("name", shipped())
def test_every_experiment_has_a_slice_that_fits_it_as_it_is(name):
    command = f"python -m benchmarks.pods --table recommended --rows '{name}/*'"
    row = BY_EXPERIMENT.get(name)
    assert row is not None, f"{name} has no recommended slice: run {command}"
    assert row["settings"] == settings_hash(experiment(name)), f"{name} changed: run {command}"
    where = topology(row["topology"], slices=row["slices"])
    assert math.prod(row["mesh"].values()) == where.devices == row["chips"]
    share = row["bytes"]["total"] / row["bytes"]["limit"]
    assert row["fits"] and share <= (1 if row["compiled"] else 0.9)
    assert f"| {name} |" in (ROOT / "docs/pods.md").read_text(), f"not on the page: run {command}"


def test_a_setting_that_changes_a_plan_changes_the_hash_and_no_other_does():
    plain = experiment("gpt2-124m")
    changed = {"model.layers": 13, "batch": 1024, "optimizer.name": "lion", "adapter.kind": "lora"}
    for path, value in changed.items():
        assert settings_hash(experiment("gpt2-124m", {path: value})) != settings_hash(plain), path
    for path, value in {"optimizer.learning_rate": 1.0, "checkpoint.keep_last": 9}.items():
        assert settings_hash(experiment("gpt2-124m", {path: value})) == settings_hash(plain), path


def test_rows_have_names_of_their_own_and_slices_that_are_known():
    assert len({row.name for row in PODS}) == len(PODS)
    assert all(topology(row.topology, slices=row.slices).chips <= 512 for row in PODS)
    assert Row(experiment="a", topology="v5e:4x4", slices=2).name == "a/2xv5e:4x4"


def test_what_is_sent_is_summed_by_kind_and_axes():
    gather = {"kind": "all-gather", "axes": "fsdp", "group": 4, "wire_bytes": 3e9}
    found = [gather | {"asynchronous": True}, gather | {"asynchronous": False, "wire_bytes": 1e9}]
    assert sent(found) == "all-gather fsdp 4 (75% async)"
    assert sent([]) == "nothing"
