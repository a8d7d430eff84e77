"""What may not be in the repository: unsafe calls, machine paths, loose ends, unpinned versions."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PINS = sorted((CHECKOUT / "constraints").glob("py3*.txt"))
UNSAFE = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
# Pipes from a process to children it started itself; no file and no other user can write there.
ALLOWED = {"data/store/workers.py": {"import pickle"}}


def tracked() -> list[Path]:
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=CHECKOUT, text=True)
    paths = [CHECKOUT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


PYTHON = [path for path in tracked() if path.suffix == ".py"]
PRODUCT = [path for path in PYTHON if path.relative_to(CHECKOUT).parts[0] != "tests"]


def unsafe(tree: ast.AST) -> list[str]:
    """Calls that run what a file or a user says, and shells."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops = {alias.name.partition(".")[0] for alias in node.names}
            found += [f"{node.lineno}: import {name}" for name in tops & UNSAFE_MODULES]
        if isinstance(node, ast.ImportFrom) and node.module in UNSAFE_MODULES:
            found.append(f"{node.lineno}: from {node.module}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            bad = (
                called in UNSAFE
                or called in {"os.system", "os.popen"}
                or (called in {"yaml.load", "yaml.unsafe_load"})
                or keywords.get("shell") == "True"
                or keywords.get("allow_pickle") == "True"
            )
            if bad:
                found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(CHECKOUT).as_posix(), set())
    found = unsafe(ast.parse(path.read_text()))
    assert not [each for each in found if each.partition(": ")[2] not in allowed]


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "import pickle",
        "from pickle import loads",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_the_lint_catches_what_it_forbids(line: str) -> None:
    assert unsafe(ast.parse(line))


def test_no_host_or_machine_path_is_named() -> None:
    # Spelled in pieces, so that this file does not name them either.
    forbidden = re.compile(
        "|".join(
            [
                "/" + r"(root|work|opt/pypi|opt/wheels)(/|\b)",
                "/" + r"home/\w+/",
                "index" + r"-url\s*=",
                "--(extra-)?index" + "-url",
                "find" + "-links",
                "file:" + "///",
            ]
        )
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(CHECKOUT)}: {match.group()}" for match in forbidden.finditer(text)
        ]
    assert not found


def test_no_loose_end_without_an_issue() -> None:
    words = "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"])
    found = [
        f"{path.name}: {match.group()}"
        for path in PYTHON
        for match in re.finditer(rf"\b({words})\b(?!.{{0,3}}#\d)", path.read_text())
    ]
    assert not found


def test_every_dependency_has_both_bounds() -> None:
    lines = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for line in lines:
        operators = {each.operator for each in Requirement(line).specifier}
        assert operators & {">=", "==", ">"}, f"{line} has no lower bound"
        assert operators & {"<", "<=", "=="}, f"{line} has no upper bound"


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!+]+", line) for line in lines), path.name
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_constraints_pin_every_dependency_within_its_bounds(path: Path) -> None:
    pinned = pins(path)
    extras = PROJECT["optional-dependencies"]
    version = ".".join(re.fullmatch(r"py(3)(\d+)\.txt", path.name).groups())  # type: ignore
    environment = {"python_version": version, "extra": "", "sys_platform": "linux"}
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras["bench"], *extras["docs"]]:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned: make constraints"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]}: {line}"


def test_both_python_versions_are_pinned() -> None:
    assert [path.name for path in PINS] == ["py311.txt", "py312.txt"]


def test_every_dependency_earns_its_place() -> None:
    table = (CHECKOUT / "docs/dependencies.md").read_text()
    listed = {match.lower() for match in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    needed = {
        canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]
    }
    assert listed == needed, "docs/dependencies.md lists exactly what pyproject.toml asks for"


def test_shell_scripts_are_clean() -> None:
    scripts = [
        path
        for path in tracked()
        if path.suffix == ".sh"
        or path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/"))
    ]
    assert scripts
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for script in scripts:
        assert "set -euo pipefail" in script.read_text(), script.name
