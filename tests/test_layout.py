"""The layout as tests: who imports whom, how long a file may be, what it may be called."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
# package -> those of ours it may import, besides itself: no arrow runs back.
FOR_ALL = {"storage", "settings"}  # these import nothing of ours, and everybody may import them
MAY_IMPORT = {
    "storage": set(),
    "settings": set(),
    "partitioning": set(),
    "data": {"partitioning"},  # only loader.py, see below
    "models": {"partitioning"},
    "objectives": {"partitioning", "data"},
    "records": set(),
    "reports": {"records"},
    "export": {"models", "partitioning"},
    "evaluation": {"models", "objectives", "data", "partitioning"},
    "pretrain": {
        "models", "objectives", "data", "partitioning", "evaluation", "records", "reports",
    },
    "planning": {
        "models", "objectives", "data", "partitioning", "evaluation", "records", "reports",
        "pretrain",
    },
    "finetune": {
        "models", "objectives", "data", "partitioning", "evaluation", "records", "reports",
        "pretrain", "export",
    },
    "configs": {
        "models", "objectives", "data", "partitioning", "evaluation", "records", "reports",
        "pretrain", "export", "finetune", "planning",
    },
    "launch": {
        "models", "objectives", "data", "partitioning", "evaluation", "records", "reports",
        "pretrain", "export", "finetune", "planning", "configs",
    },
}  # fmt: skip
LINES = 400
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc", "core"}
# Third-party packages that hold data preparation, the command line and storage. A machine that
# only trains may lack them: models, objectives, layouts and the step do without.
PREPARATION = (
    "tensorflow_datasets", "tensorflow", "array_record", "pyarrow", "sentencepiece", "tokenizers",
    "tiktoken", "orbax", "tensorstore", "tyro", "cattrs", "jinja2", "matplotlib", "tensorboardX",
    "etils.epath", "psutil", "safetensors", "zstandard", "grain", "wandb",
)  # fmt: skip
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
SOURCES = sorted(
    path
    for folder in (*MAY_IMPORT, "tests", "benchmarks", "constraints")
    for path in (CHECKOUT / folder).rglob("*.py")
)
OURS = [path for path in SOURCES if path.relative_to(CHECKOUT).parts[0] in MAY_IMPORT]


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import in a file, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "gesso":
            yield from ((f"gesso.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def direction_problems(package: str, file: str, tree: ast.AST) -> list[str]:
    allowed = MAY_IMPORT[package] | {package} | (set() if package in FOR_ALL else FOR_ALL)
    problems = []
    for module, line in imports(tree):
        top, _, rest = module.partition(".")
        if top in MAY_IMPORT:
            problems.append(f"{file}:{line}: {top} is gesso.{top}")
        if top == "gesso":
            top = rest.partition(".")[0]
            if top not in allowed:
                problems.append(f"{file}:{line}: {package} may not import gesso.{top}")
        if package == "data" and file != "data/loader.py":
            if top == "partitioning":
                problems.append(f"{file}:{line}: only data/loader.py imports partitioning")
            if top in JAX:
                problems.append(f"{file}:{line}: only data/loader.py imports {top}")
        if package in FOR_ALL and top in JAX:
            problems.append(f"{file}:{line}: {package} does without {top}")
        if module.startswith("jax._src"):
            problems.append(f"{file}:{line}: jax._src is private")
    return problems


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(CHECKOUT).parts[0]
    assert not direction_problems(package, name_of(path), ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("storage", "from gesso.settings.nearest import nearest"),
        ("settings", "from gesso.partitioning.config import AXES"),
        ("settings", "import jax"),
        ("partitioning", "import gesso.data"),
        ("launch", "from models import build"),
        ("models", "from gesso.objectives.causal import CausalLM"),
        ("data", "def f():\n    import jax.numpy as jnp"),
        ("data", "from gesso.partitioning.axes import shard"),
        ("pretrain", "import importlib\nimportlib.import_module('gesso.configs.registry')"),
        ("export", "from gesso import pretrain"),
        ("evaluation", "from gesso.pretrain import run"),
        ("finetune", "import gesso.launch.cli"),
        ("launch", "from jax._src import core"),
    ],
)
def test_the_rule_catches_what_it_forbids(package: str, line: str) -> None:
    assert direction_problems(package, f"{package}/x.py", ast.parse(line))


def test_every_package_has_a_rule() -> None:
    packages = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"tests"}
    assert packages <= MAY_IMPORT.keys() | {"benchmarks"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_short_and_says_what_it_holds(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= LINES, f"{lines} lines: a new idea is a new file"
    if path.name == "__init__.py" and not text:
        return
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "the first line says what a reader finds here"
    assert docstring.splitlines()[0].strip()
    assert text.lstrip().startswith(('"""', "#!")), "the docstring is the first line"


def test_no_file_is_called_nothing_in_particular() -> None:
    named = [path for path in SOURCES if {path.stem, path.parent.name} & NAMELESS]
    assert not named


def test_no_two_modules_can_be_taken_for_each_other() -> None:
    tops = {path.name for path in CHECKOUT.iterdir() if (path / "__init__.py").exists()}
    loose = {path.stem for path in CHECKOUT.glob("*.py")}
    assert not tops & loose, "a file beside a package of the same name"
    assert not tops & (sys.stdlib_module_names - {"data"}), "a package named like Python's own"
    for package in {path.parent for path in OURS}:
        modules = {path.stem for path in package.glob("*.py")}
        folders = {path.name for path in package.iterdir() if path.is_dir()}
        assert not modules & folders, f"{package} has a file and a folder of one name"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_name_of_a_package_is_none_of_its_modules(package: str) -> None:
    """Else `from gesso.pretrain import run` depends on what was imported before."""
    offered = set(getattr(importlib.import_module(f"gesso.{package}"), "__all__", ()))
    inside = {path.stem for path in (CHECKOUT / package).iterdir() if not path.name.startswith("_")}
    assert not offered & inside


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd="/"
    )


@pytest.mark.parametrize(
    "module",
    [
        "gesso",
        *(f"gesso.{path.parent.name}.config" for path in CHECKOUT.glob("*/config.py")),
        "gesso.configs.registry",
        "gesso.pretrain.experiment",
        "gesso.pretrain.exits",
        "gesso.launch.cli",
        "gesso.launch.commands.pretrain",
    ],
)
def test_settings_are_read_without_jax(module: str) -> None:
    heavy = sorted(JAX | {"tensorflow_datasets", "pyarrow", "tensorstore"})
    done = run_python(
        f"import sys, {module}; found = [m for m in {heavy} if m in sys.modules]; print(found)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_experiment_is_made_without_jax() -> None:
    done = run_python(
        "import sys; from gesso.configs import registry\n"
        "for name in registry.names(): registry.experiment(name)\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        for forbidden in {forbidden}:
            if name == forbidden or name.startswith(forbidden + "."):
                raise ModuleNotFoundError("blocked for the test: " + name, name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    "modules",
    [
        "gesso.partitioning.axes, gesso.partitioning.layouts, gesso.partitioning.hosts.processes",
        "gesso.partitioning.mesh, gesso.models.gpt.gpt, gesso.models.count",
        "gesso.objectives.causal, gesso.objectives.cross_entropy",
        "gesso.pretrain.step, gesso.pretrain.state, gesso.pretrain.optimizer.optimizer",
    ],
)
def test_training_imports_without_the_data_preparation_packages(modules: str) -> None:
    done = run_python(f"{BLOCKED.format(forbidden=PREPARATION)}\nimport {modules}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in OURS
        if path.relative_to(CHECKOUT).parts[0] in {"partitioning", "models", "objectives"}
        or path.parent.name == "optimizer"
        or name_of(path) in {"pretrain/step.py", "pretrain/state.py"}
    ],
    ids=name_of,
)
def test_training_needs_only_jax_flax_optax_and_numpy(path: Path) -> None:
    # rich comes with flax, so only this test keeps it out.
    allowed = {"jax", "flax", "optax", "numpy", "__future__"} | sys.stdlib_module_names
    tops = {module.partition(".")[0] for module, _ in imports(ast.parse(path.read_text()))}
    assert not tops - allowed - {"gesso"}


def test_the_block_blocks() -> None:
    done = run_python(f"{BLOCKED.format(forbidden=PREPARATION)}\nimport pyarrow")
    assert "blocked for the test" in done.stderr
