"""docs/architecture.md walks the spine with excerpts: each is in its file, line for line."""

import re
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "docs/architecture.md").read_text()
PARTS = re.findall(r"^## \d\. `([^`]+)`[^\n]*\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)


def excerpts(text: str) -> list[str]:
    return [textwrap.dedent(each) for each in re.findall(r"```py\n(.+?)```", text, re.DOTALL)]


def occurs(excerpt: str, source: str) -> bool:
    """Whether the lines stand together in the source, whatever their common indentation is."""
    lines, wanted = source.splitlines(), excerpt.splitlines()
    windows = range(len(lines) - len(wanted) + 1)
    return any(
        textwrap.dedent("\n".join(lines[at : at + len(wanted)])).splitlines() == wanted
        for at in windows
    )


@pytest.mark.parametrize(("file", "text"), PARTS, ids=[file for file, _ in PARTS])
def test_an_excerpt_is_in_its_file(file: str, text: str) -> None:
    (excerpt,) = excerpts(text)
    assert occurs(excerpt, (CHECKOUT / file).read_text()), f"{file} has other lines now:\n{excerpt}"


def test_the_spine_is_nine_files() -> None:
    assert [file for file, _ in PARTS] == re.findall(r"^\| \d \| \[([^]]+)\]", PAGE, re.MULTILINE)
    assert len(PARTS) == 9
    assert sum((CHECKOUT / file).read_text().count("\n") for file, _ in PARTS) < 1_850


def test_another_line_is_seen() -> None:
    assert occurs("a\n  b", "x\n    a\n      b\n")
    assert not occurs("a\nb", "a\n\nb\n")
