"""Generated parts of docs/performance.md: each lies between two marker comments."""

import re
from collections.abc import Sequence
from pathlib import Path


def write_section(page: Path, name: str, markdown: str) -> None:
    """Put `markdown` between the markers of section `name`, or after all else where the page has
    none yet. What people wrote around the markers stays."""
    start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    text = page.read_text() if page.exists() else "# Performance\n"
    body = f"{start}\n{markdown.strip()}\n{end}"
    if start in text:
        pattern = re.escape(start) + ".*?" + re.escape(end)
        text = re.sub(pattern, lambda _: body, text, count=1, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{body}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
