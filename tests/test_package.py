"""The package `gesso`: what its wheel holds, what `import gesso` loads, that both work alone."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import gesso

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
# Folders at the top that are not part of the package.
OUTSIDE = {"tests", "benchmarks", "constraints", "docker", "docs", ".ci"}


def tracked() -> list[Path]:
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=CHECKOUT, text=True)
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if (CHECKOUT / path).is_file()]


def ours() -> list[Path]:
    """What of the checkout is the package: its files below the top, and __init__.py."""
    inside = [path for path in tracked() if len(path.parts) > 1 and path.parts[0] not in OUTSIDE]
    return [Path("__init__.py"), *inside]


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As in a user's shell: nothing of the checkout on the path."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_packages_listed_are_those_of_the_tree() -> None:
    modules = [path for path in ours() if path.suffix == ".py"]
    folders = {".".join(("gesso", *path.parent.parts)) for path in modules}
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders)
    missing = {path.parent for path in modules} - {
        path.parent for path in modules if path.name == "__init__.py"
    }
    assert not missing, "a folder of modules without __init__.py"


def test_every_public_name_is_there() -> None:
    for name in gesso.__all__:
        assert getattr(gesso, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'; it has Experiment"):
        gesso.trian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_it_loads_next_to_nothing() -> None:
    """Modules are counted, not seconds: on a loaded machine only the count stays the same."""
    program = (
        "import sys; before = set(sys.modules); import gesso\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = set(run(sys.executable, "-c", program, cwd=Path("/")).stdout.split())
    foreign = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"gesso"}
    assert len(loaded) < 30


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files alone, as a git repository: what a build adds can be seen."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((CHECKOUT / path).read_bytes())
    # What setuptools would leave, and would pack again: a module that no longer exists.
    (folder / "build/lib/gesso").mkdir(parents=True)
    (folder / "build/lib/gesso/ghost.py").write_text('"""Of an earlier build."""\n')
    return folder


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BUILD = (*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = files(copy)
    folder = tmp_path_factory.mktemp("wheel")
    run(*BUILD, folder, copy, cwd=folder)
    assert files(copy) == before, "the build leaves nothing in the checkout"
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"gesso/{path.as_posix()}" for path in ours()}
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")


def test_the_sdist_makes_the_same_wheel(copy: Path, wheel: Path, tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, 'constraints'); import backend\n"
    program += f"backend.build_sdist({str(tmp_path)!r})"
    before = files(copy)
    run(sys.executable, "-c", program, cwd=copy)
    after = {path for path in files(copy) if "__pycache__" not in path.parts}
    assert after == before
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    run(*BUILD, tmp_path / "again", unpacked, cwd=tmp_path)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()
    for name in zipfile.ZipFile(wheel).namelist():
        assert zipfile.ZipFile(again).read(name) == zipfile.ZipFile(wheel).read(name), name


# As one would write beside one's own modules, some of which are called like rooms of ours.
SCRIPT = """\
import pathlib
import data, models
import gesso

assert data.mine and models.mine
installed, home = pathlib.Path(gesso.__file__).resolve(), pathlib.Path("home").resolve()
assert home in installed.parents, installed
experiment = gesso.experiment("debug-gpt-neo", overrides={"steps": 3})
print(gesso.run(experiment, folder="runs/neo").step)
"""


def train_and_export(python: Path, folder: Path, *more: tuple[str, ...]) -> None:
    """In a user's repository that has its own `data` and `models`: train, export, and `more`."""
    run("git", "init", "--quiet", cwd=folder)
    names = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    run("git", *names, "commit", "--quiet", "--allow-empty", "--message", "Mine", cwd=folder)
    for name in ("data", "models"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("mine = True\n")
    (folder / "mine.py").write_text(SCRIPT)
    done = run(python, "mine.py", cwd=folder)
    assert done.stdout.split()[-1] == "3"
    environment = json.loads((folder / "runs/neo/environment.json").read_text())
    assert environment["commit"] == "", "the user's commit is not Gesso's"
    for command in (("export", "runs/neo", "exported", "--format", "hf"), *more):
        run(python.with_name("gesso"), *command, cwd=folder)
    assert (folder / "exported/model.safetensors").is_file()


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has our dependencies and not the checkout."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "home", cwd=tmp_path)
    python = tmp_path / "home/bin/python"
    (packages,) = (tmp_path / "home/lib").glob("*/site-packages")
    # A folder named in a .pth file is searched; its own .pth files, our checkout's, are not read.
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    run(
        *PIP,
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    train_and_export(python, tmp_path)


@pytest.mark.slow
def test_the_wheel_works_in_a_bare_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed with its dependencies, from the package index that pip is set up for."""
    run(sys.executable, "-m", "venv", tmp_path / "home", cwd=tmp_path)
    python = tmp_path / "home/bin/python"
    version = f"py3{sys.version_info.minor}"
    pins = CHECKOUT / f"constraints/{version}.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, cwd=tmp_path)
    more = (
        ("instructions", "templates"),
        ("pretrain", "debug-gpt-neo", "--steps", "3", "--folder", "runs/command"),
        ("report", "runs/command", "runs/neo"),
    )
    train_and_export(python, tmp_path, *more)
