"""A family of models of another package: built, counted, trained, recorded."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import pytest

from gesso.configs import experiment
from gesso.launch.cli import main
from gesso.models import build, parameters
from gesso.models.families import FAMILIES, family
from gesso.pretrain.experiment import ExperimentError, from_json, to_json

MODULE = '''\
"""GPT by another name: what is to be shown is where a family is found."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from gesso.configs import experiment
from gesso.models.families import Family
from gesso.models.gpt.config import GPTConfig


@dataclass(frozen=True, kw_only=True)
class TheirConfig(GPTConfig):
    """Their family."""

    family: Literal["theirs"] = "theirs"


def their_neo():
    """Our data, their family."""
    small = experiment("debug-gpt-neo", {"model.layers": 1, "length": 32, "batch": 8})
    model = TheirConfig(**dataclasses.asdict(small.model) | {"family": "theirs"})
    return dataclasses.replace(small, name="their-neo", model=model)


THEIRS = Family(
    config="their_family:TheirConfig",
    module="gesso.models.gpt.gpt:GPT",
    count="gesso.models.gpt.count",
    counts_layers=True,
)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for packages, with one that has a family."""
    (tmp_path / "their_family.py").write_text(MODULE)
    add(tmp_path, "theirs = their_family:THEIRS\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_family", raising=False)
    return tmp_path


def add(site: Path, entries: str) -> None:
    folder = site / "their_family-1.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-family\nVersion: 1\n")
    experiments = "[gesso.experiments]\ntheir-neo = their_family:their_neo\n"
    (folder / "entry_points.txt").write_text(f"[gesso.families]\n{entries}{experiments}")


def test_it_is_built_counted_and_recorded(site: Path) -> None:
    small = experiment("debug-gpt-neo", {"model.layers": 1, "model.embed": 16, "model.mlp": 16})
    values = dataclasses.asdict(small.model) | {"family": "theirs"}
    config = family("theirs").config_class()(**values)
    theirs = dataclasses.replace(small, model=config)
    made = build(config).init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == parameters(config)["total"]
    assert from_json(json.loads(json.dumps(to_json(theirs)))) == theirs
    wrong = to_json(theirs)
    wrong["model"]["layesr"] = 3
    with pytest.raises(ExperimentError, match="layesr"):
        from_json(wrong)


def test_it_is_trained_and_evaluated_from_the_command_line(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site)
    assert main(["pretrain", "their-neo", "--steps", "2", "--model.heads", "2"]) == 0
    record = json.loads((site / "runs/their-neo/experiment.json").read_text())
    assert record["model"]["family"] == "theirs"
    assert record["model"]["heads"] == 2
    capsys.readouterr()
    assert main(["evaluate", "runs/their-neo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_one_that_is_not_there_or_not_a_family_is_refused_in_a_line(site: Path) -> None:
    with pytest.raises(ValueError, match="'thiers' is not known"):
        family("thiers")
    add(site, "theirs = their_family:TheirConfig\ngpt = absent:GPT\n")
    message = r"'theirs' of gesso.families in their-family \(their_family:TheirConfig\) failed"
    with pytest.raises(ValueError, match=message):
        family("theirs")
    assert family("gpt") is FAMILIES["gpt"], "ours are never replaced"
