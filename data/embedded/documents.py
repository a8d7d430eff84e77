"""The documents of the embedded corpus: what an installed Python has in text."""

import ast
import io
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Bytes of the shortest and longest files taken: shorter ones are empty packages, longer ones data.
SHORTEST, LONGEST = 64, 1 << 20
# Characters of the shortest docstring that is prose rather than a label.
SHORTEST_DOCSTRING = 80
TEST_FOLDERS = {"test", "tests", "idle_test"}
# Not the language's own (installed packages), made at build time with the machine's paths in it
# (config-*, _sysconfigdata_*), or the source of LanguageReference.
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "pydoc_data", "lib-dynload"}
_QUOTES = ('"', "'", 'r"', "r'", 'R"', "R'", 'u"', "u'")
SKIPPED_FILES = {"sitecustomize.py", "usercustomize.py"}


def documents(stdlib: Path | None = None) -> Iterator[tuple[str, str]]:
    """(component, text) of each document, in a fixed order for one Python version.

    stdlib: the folder to read; None: the running Python's. What is absent (distributions leave out
    `test` or `pydoc_data`) gives no documents. Files that are not UTF-8 are passed over.
    """
    root = stdlib or Path(sysconfig.get_path("stdlib"))
    for path in _python_files(root):
        text = _read(path)
        if text is None:
            continue
        if TEST_FOLDERS & set(path.relative_to(root).parts):
            yield "StdlibTests", text
            continue
        code, prose = _split(text)
        if len(code) >= SHORTEST:
            yield "Stdlib", code
        if prose:
            yield "Docstrings", prose
    for topic in _topics(root):
        yield "LanguageReference", topic


def _python_files(root: Path) -> Iterator[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if name not in SKIPPED_FOLDERS and name[:7] != "config-"
        ]
        found += [
            Path(folder) / name
            for name in files
            if name.endswith(".py") and name not in SKIPPED_FILES and name[:12] != "_sysconfigda"
        ]
    yield from sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _read(path: Path) -> str | None:
    try:
        content = path.read_bytes()
        return content.decode("utf-8") if SHORTEST <= len(content) <= LONGEST else None
    except (OSError, UnicodeDecodeError):
        return None


def _split(source: str) -> tuple[str, str]:
    """A module's code and its docstrings. No text is in both: one of them may be held out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return source, ""
    # Python's lines end at \n, \r and \r\n, not where str.splitlines sees an end.
    lines = io.StringIO(source, newline="").readlines()
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text and len(text) > SHORTEST_DOCSTRING:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno or 0
            if lines[first].lstrip().startswith(_QUOTES) and lines[last - 1].rstrip()[-1] in "\"'":
                lines[first:last] = [""] * (last - first)
                found.append(text)
    return "".join(lines), "\n\n".join(found)


def _topics(root: Path) -> list[str]:
    """The language reference's sections, read from pydoc_data/topics.py without running it."""
    source = root / "pydoc_data" / "topics.py"
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [topics[name] for name in sorted(topics)]
    return []
