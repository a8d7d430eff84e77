"""The product's source as a graph and as counts: what the rules of the house are checked on."""

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PACKAGES = tuple(
    sorted(
        path.parent.name
        for path in CHECKOUT.glob("*/__init__.py")
        if path.parent.name not in {"tests", "benchmarks"}
    )
)
# Words that end like a participle and are none, and participles that do not end like one.
_VERBS_AND_NOUNS = {"embed", "feed", "seed", "need", "speed", "proceed", "exceed", "shed", "bed"}
_AFTER = {"in", "out", "of", "from", "by", "at", "on", "with", "alone"}
_IRREGULAR = {
    "begun", "bent", "born", "bought", "bound", "broken", "brought", "built", "caught", "chosen",
    "done", "drawn", "found", "frozen", "given", "gone", "grown", "held", "kept", "known",
    "laid", "left", "lent", "lost", "made", "meant", "paid", "said", "seen", "sent", "shown",
    "sought", "spent", "spoken", "taken", "taught", "thrown", "told", "torn", "worn", "written",
}  # fmt: skip


def dotted(path: Path) -> str:
    """The module of a file: gesso.models.gpt.config."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(["gesso", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {
    dotted(path): path
    for package in PACKAGES
    for path in sorted((CHECKOUT / package).rglob("*.py"))
    if (path.parent / "__init__.py").exists()
}


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module of ours, line) of every import in a file, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "gesso":
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                yield (inner if inner in MODULES else str(node.module)), node.lineno


@functools.cache
def graph() -> dict[str, set[str]]:
    """{module: the modules it imports}, also inside functions and for types."""
    return {
        name: {each for each, _ in imported(ast.parse(path.read_text()))} & MODULES.keys() - {name}
        for name, path in MODULES.items()
    }


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def room(module: str) -> str:
    """The folder of a module below its package: "" for the package's own files."""
    path = MODULES[module]
    return "/".join(path.relative_to(CHECKOUT).parts[1:-1][:1])


def rooms(package: str) -> dict[str, set[str]]:
    """{sub-package: the sub-packages of the same package that it imports}. Files that lie in the
    package itself are each a room of their own, by the file's name."""
    edges: dict[str, set[str]] = {}
    for name, others in graph().items():
        if name.split(".")[1] != package or name == f"gesso.{package}":
            continue
        here = room(name) or name.rpartition(".")[2]
        inside = {other for other in others if other.split(".")[1] == package}
        there = {room(other) or other.rpartition(".")[2] for other in inside}
        edges.setdefault(here, set()).update(there - {here, package})
    return edges


@dataclass(frozen=True)
class Counts:
    """annotations: all; vague: those that are or hold Any. defaults: getattr with a default.
    inside: imports in functions. participles: functions named by one. All as "file:line name"."""

    annotations: int
    vague: list[str]
    defaults: list[str]
    inside: list[str]
    participles: list[str]


def counts(text: str, file: str) -> Counts:
    """What the rules count in one file."""
    annotations: list[ast.expr] = []
    vague, defaults, inside, participles = [], [], [], []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            spec = node.args
            each = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            annotations += [one.annotation for one in each if one and one.annotation]
            annotations += [node.returns] if node.returns else []
            if is_participle(node.name):
                participles.append(f"{file}:{node.lineno} {node.name}")
            within = (one for part in node.body for one in ast.walk(part))
            inside += [
                f"{file}:{one.lineno}"
                for one in within
                if isinstance(one, ast.Import | ast.ImportFrom)
            ]
        elif isinstance(node, ast.AnnAssign):
            annotations.append(node.annotation)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and len(node.args) == 3
        ):
            defaults.append(f"{file}:{node.lineno} {ast.unparse(node)}")
    for each in annotations:
        names = {one.id for one in ast.walk(each) if isinstance(one, ast.Name)}
        if "Any" in names or (isinstance(each, ast.Constant) and "Any" in str(each.value)):
            vague.append(f"{file}:{each.lineno} {ast.unparse(each)}")
    return Counts(len(annotations), vague, defaults, sorted(set(inside)), participles)


def is_participle(function: str) -> bool:
    """Whether a function is named by a past participle alone: `restored`, `_kept_in`. Before a noun
    it is an adjective: `masked_head`."""
    first, *rest = function.strip("_").split("_")
    return _is_participle(first) and (not rest or rest[-1] in _AFTER or _is_participle(rest[-1]))


def _is_participle(word: str) -> bool:
    return word in _IRREGULAR or (word.endswith("ed") and word not in _VERBS_AND_NOUNS)


def everywhere() -> Counts:
    """`counts` of all files of the product together."""
    each = [
        counts(path.read_text(), path.relative_to(CHECKOUT).as_posix()) for path in MODULES.values()
    ]
    return Counts(
        sum(one.annotations for one in each),
        *(sum((getattr(one, name) for one in each), []) for name in (
            "vague", "defaults", "inside", "participles",
        )),
    )  # fmt: skip
