"""Builds the wheel and the sdist: setuptools, in a temporary folder each time.

setuptools by itself leaves `build/` and `*.egg-info` in the checkout, and packs what an earlier
build left there: a wheel could hold modules that no longer exist.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import build_meta

Settings = dict[str, str | list[str] | None] | None


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Point the folders that setuptools writes to at a temporary one."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "folders.cfg")
        config.write_text(f"[build]\nbuild_base={folder}\n[egg_info]\negg_base={folder}\n")
        before = os.environ.get("DIST_EXTRA_CONFIG")
        os.environ["DIST_EXTRA_CONFIG"] = str(config)
        try:
            yield
        finally:
            del os.environ["DIST_EXTRA_CONFIG"]
            if before is not None:
                os.environ["DIST_EXTRA_CONFIG"] = before


# The hooks of PEP 517 and PEP 660, by their names there.


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    with _elsewhere():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    with _elsewhere():
        return build_meta.build_sdist(sdist_directory, config_settings)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    with _elsewhere():
        return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
