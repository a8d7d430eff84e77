"""`write_report`: one self-contained HTML page for a run, or for several side by side."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gesso.reports.facts import read_run
from gesso.reports.page import Page
from gesso.reports.run.comparison import comparison_page
from gesso.reports.run.run import run_page
from gesso.storage.files import write_durably


def write_report(runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Path:
    """Write the page for these run folders to `output`, and return its path.

    One folder gives the report of that run, several a comparison. Runs may be unfinished or
    failed; what a run does not record is left out and said. The page loads nothing, and whatever
    text a run holds is shown as text. Raises ValueError for no folder, one named twice, or one that
    holds no run.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise ValueError("a report needs at least one run folder")
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"a run is named twice: {', '.join(map(str, folders))}")
    facts = [read_run(folder) for folder in folders]
    page = (
        run_page(facts[0], gesso_version())
        if len(facts) == 1
        else (comparison_page(facts, gesso_version()))
    )
    path = Path(output)
    write_durably(path, render(page))
    return path


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("page.html.j2").render(page=page)


def gesso_version() -> str:
    try:
        return version("gesso")
    except PackageNotFoundError:
        return "from a checkout"
