"""Pins what this environment has: `python constraints/freeze.py` writes py311.txt or py312.txt.

Only what Gesso needs, with its extras for development and benchmarks, directly or through another
package: a tool that happens to be installed beside it is left out, and so is where anything came
from.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("dev", "bench", "docs")


def pins(root: str, extras: tuple[str, ...]) -> dict[str, str]:
    """{package: version} of everything installed that `root[extras]` requires, but for itself."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is required but not installed: make install first")
        versions[canonicalize_name(name)] = found.version
        for line in found.requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                child = canonicalize_name(required.name)
                waiting += [(child, each) for each in ("", *required.extras)]
    del versions[canonicalize_name(root)]
    return versions


def main() -> None:
    """Write the constraints file of this Python version beside this file."""
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    path = Path(__file__).with_name(f"py{version}.txt")
    lines = [f"{name}=={pinned}" for name, pinned in sorted(pins("gesso", EXTRAS).items())]
    header = f"# The versions Gesso is tested with on Python 3.{version[1:]}; made by freeze.py.\n"
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
