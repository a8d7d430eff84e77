"""Experiments of other packages: installed, listed, trained; broken ones never break ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gesso.configs import registry
from gesso.launch.cli import main
from gesso.pretrain.experiment import ExperimentError

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-experiments"
version = "1"

[project.entry-points."gesso.experiments"]
their-neo = "their_experiments:their_neo"

[tool.setuptools]
py-modules = ["their_experiments"]
"""
MODULE = '''\
"""Experiments on top of Gesso's."""

import dataclasses

from gesso.configs import experiment


def their_neo():
    """Our data, their shape.

    gesso pretrain their-neo
    """
    small = experiment("debug-gpt-neo", {"model.layers": 1, "length": 32, "batch": 8})
    return dataclasses.replace(small, name="their-neo")


def wrong_name():
    return experiment("debug-gpt-neo")


def no_experiment():
    return 3


def raises():
    raise KeyError("lost")
'''


def add(site: Path, package: str, entries: str) -> None:
    """A package's metadata, as an installer would write it."""
    folder = site / f"{package.replace('-', '_')}-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(f"[gesso.experiments]\n{entries}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for packages, with the module of another one."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "their_experiments.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "their_experiments", raising=False)
    return folder


def test_an_installed_experiment_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "their_experiments.py").write_text(MODULE)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(installed), str(source)]
    subprocess.run(command, check=True)
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "their-neo", "--steps", "2"]) == 0
    record = json.loads((tmp_path / "runs/their-neo/experiment.json").read_text())
    assert record["name"] == "their-neo"
    assert record["model"]["layers"] == 1
    assert "Our data, their shape" in registry.describe("their-neo")
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*registry.names(), "their-neo"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_here:f", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("their_experiments:absent", "AttributeError: module 'their_experiments' has no attr"),
        ("their_experiments:dataclasses", "is not a function or class"),
        ("their_experiments:raises", "KeyError: 'lost'"),
        ("their_experiments:no_experiment", "TypeError: it returned a int, not an Experiment"),
        ("their_experiments:wrong_name", "it returned an experiment named 'debug-gpt-neo'"),
    ],
)
def test_a_broken_one_is_one_line_that_names_its_package(
    site: Path, target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(site, "their-experiments", f"their-neo = {target}\n")
    assert registry.experiment("debug-gpt-neo").name == "debug-gpt-neo"
    assert main(["pretrain", "their-neo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert f"'their-neo' of gesso.experiments in their-experiments ({target})" in line


def test_the_list_names_what_is_broken_and_goes_on(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(site, "their-experiments", "their-neo = their_experiments:raises\nflan = absent:f\n")
    assert main(["list", "--json"]) == 0
    shown = capsys.readouterr()
    assert [row["name"] for row in json.loads(shown.out)] == registry.names()
    refused, broken = shown.err.splitlines()
    assert refused.startswith("'flan' of gesso.experiments in their-experiments is refused")
    assert broken.startswith("'their-neo' of gesso.experiments in their-experiments (their_")


def test_a_name_of_ours_stays_ours(site: Path) -> None:
    add(site, "their-experiments", "debug-gpt-neo = their_experiments:raises\n")
    assert registry.experiment("debug-gpt-neo").name == "debug-gpt-neo"
    assert registry.others() == (
        [],
        [
            "'debug-gpt-neo' of gesso.experiments in their-experiments is refused:"
            " Gesso has one of that name"
        ],
    )


def test_a_name_in_two_packages_is_neither_one_s(site: Path) -> None:
    for package in ("their-experiments", "our-experiments"):
        add(site, package, "their-neo = their_experiments:their_neo\n")
    message = (
        "'their-neo' of gesso.experiments is in two packages, our-experiments and"
        " their-experiments: remove one"
    )
    assert registry.others() == ([], [message])
    with pytest.raises(ExperimentError, match=message):
        registry.experiment("their-neo")


def test_a_mistyped_name_is_compared_with_theirs_too(site: Path) -> None:
    add(site, "their-experiments", "their-neo = their_experiments:their_neo\n")
    with pytest.raises(ExperimentError, match="did you mean their-neo"):
        registry.experiment("their-noe")


def test_names_of_ours_are_found_without_looking_at_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gesso.settings.entry_points.entry_points", None)
    assert registry.experiment("debug-gpt-neo").name in registry.names()
