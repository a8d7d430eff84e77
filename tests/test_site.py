"""The documentation site: built strict, from every page, with nothing fetched from elsewhere."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gesso

CHECKOUT = Path(__file__).parents[1]
CONFIG = (CHECKOUT / "mkdocs.yml").read_text()


def test_every_page_has_a_place() -> None:
    listed = re.findall(r"^ +- ([\w/]+\.md)$", CONFIG, re.MULTILINE)
    pages = [path.relative_to(CHECKOUT / "docs") for path in CHECKOUT.glob("docs/**/*.md")]
    assert sorted(listed) == sorted(page.as_posix() for page in pages)


def test_the_reference_has_every_public_name() -> None:
    text = (CHECKOUT / "docs/reference/index.md").read_text()
    offered = [getattr(gesso, name) for name in gesso.__all__]
    homes = {f"{each.__module__}.{each.__qualname__}" for each in offered}
    assert set(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) == homes


def test_the_newest_release_is_the_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## ([\d.]+)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == project["version"]


def test_the_hooks_before_a_commit_check_what_make_lint_checks() -> None:
    text = (CHECKOUT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert lint
    checks = [each.partition(" launch/")[0] for each in re.findall(r"\$\(BIN\)/(.+)", lint[1])]
    hooks = re.findall(
        r"entry: \.venv/bin/(.+)", (CHECKOUT / ".pre-commit-config.yaml").read_text()
    )
    assert hooks == checks


def build(site: Path, config: Path) -> subprocess.CompletedProcess[str]:
    # Another text than warnings reaches the log: who makes mkdocs-material, and until when.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    return subprocess.run(
        [*command, "--config-file", str(config)], cwd=CHECKOUT, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    done = build(tmp_path / "site", CHECKOUT / "mkdocs.yml")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    fetched = {
        found
        for page in pages
        for found in re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(https?:[^\" >]+)",
            page.read_text(),
        )
    }
    assert not fetched, "a page asks another server for something"
    reference = (tmp_path / "site/reference/index.html").read_text()
    assert "Raises ExperimentError" in reference
