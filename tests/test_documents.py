"""The documents say what the code does: the alphabet, the commands, the links between files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gesso.launch.cli import COMMANDS
from gesso.partitioning.axes import ALPHABET
from gesso.partitioning.config import AXES
from gesso.partitioning.layouts import LAYOUTS

CHECKOUT = Path(__file__).parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])


def test_the_alphabet_is_documented() -> None:
    text = (CHECKOUT / "docs/alphabet.md").read_text()
    rows = dict(re.findall(r"\| `([A-Z])` \| ([^|:,]+?)(?:[:,][^|]*)? (?=\|)", text))
    assert rows == ALPHABET
    assert set(re.findall(r"^\| `([a-z]+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)) == set(AXES)
    assert set(re.findall(r"^\| `([a-z_]+)` \|(?:[^|]*\|){4}$", text, re.MULTILINE)) == set(LAYOUTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    known = {name.split()[0] for name in COMMANDS} | {"--version", "--help"}
    # At the start of a line or of code, where a command stands.
    used = re.findall(r"(?:^|`)gesso ([a-z-]+)", path.read_text(), re.MULTILINE)
    assert not set(used) - known


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """As a user would paste it, with fewer steps."""
    (program,) = re.findall(r"```python\n(.+?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    program = program.replace('"steps": 200', '"steps": 2')
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/mine/checkpoints/2").is_dir()
