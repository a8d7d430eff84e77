"""Refuses to start when one of our top-level packages would be imported from somewhere else.

`models`, `data` and the others are common names: a wheel or a folder on PYTHONPATH that has one
too would silently replace half of the program.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "partitioning",
    "data",
    "models",
    "objectives",
    "pretrain",
    "finetune",
    "evaluation",
    "export",
    "configs",
    "launch",
)


def shadowed(
    packages: Iterable[str] = PACKAGES, *, checkout: Path = CHECKOUT
) -> dict[str, tuple[str, ...]]:
    """{package: where it would be imported from} for each that is not the checkout's own.

    Nothing is imported. A package that the checkout does not have (yet) is none of ours.
    """
    found = {}
    for package in packages:
        if not (checkout / package / "__init__.py").is_file():
            continue
        spec = importlib.util.find_spec(package)
        homes = tuple(spec.submodule_search_locations or (str(spec.origin),)) if spec else ()
        if [Path(home).resolve() for home in homes] != [checkout / package]:
            found[package] = homes or ("nowhere",)
    return found


def explain(found: dict[str, tuple[str, ...]], *, checkout: Path = CHECKOUT) -> str:
    """One message about shadowed packages: what is wrong and what to do."""
    lines = [f"  {package}: {', '.join(homes)}" for package, homes in sorted(found.items())]
    return (
        f"these packages of Gesso would not be imported from the checkout {checkout}, because"
        " another package of the same name comes first on the import path:\n"
        + "\n".join(lines)
        + "\nuninstall the other package, take its folder off PYTHONPATH, or install Gesso into a"
        " virtual environment of its own (make does that)"
    )
