"""Hooks of the documentation site (mkdocs.yml): the package by its name, links that leave docs/."""

import re
import shutil
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
STAGED = CHECKOUT / ".cache/site/gesso"


def on_startup(command, dirty):
    """Copy the package to where the reference is read from: the checkout is not called gesso."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    shutil.rmtree(STAGED, ignore_errors=True)
    for package in project["tool"]["setuptools"]["packages"]:
        folder = Path(*package.split(".")[1:])
        (STAGED / folder).mkdir(parents=True)
        for path in (CHECKOUT / folder).glob("*.py"):
            shutil.copyfile(path, STAGED / folder / path.name)


def on_page_markdown(markdown, page, config, files):
    """A link to a file outside docs/ is its text alone: the site holds the pages only."""
    return re.sub(
        r"\[([^]]+)\]\(\.\./(?:\.\./)?[^)]*\.(?:py|md|toml)\)", keep_pages(page), markdown
    )


def keep_pages(page):
    folder = (CHECKOUT / "docs" / page.file.src_path).parent

    def text_or_link(match):
        target = re.search(r"\(([^)]*)\)$", match[0])[1]
        inside = (folder / target).resolve().is_relative_to(CHECKOUT / "docs")
        return match[0] if inside else match[1]

    return text_or_link
