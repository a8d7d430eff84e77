"""Plans that were made before: a compiled plan is kept under a hash of all that decides it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gesso.planning.plan import cache_key
from gesso.planning.topology import Topology
from gesso.pretrain.experiment import Experiment
from gesso.storage.files import write_durably


def keep_plan(
    experiment: Experiment,
    where: Topology,
    make: Callable[[], dict[str, Any]],
    *,
    depth: str = "whole",
) -> dict[str, Any]:
    """The plan in the cache folder (GESSO_CACHE, ~/.cache/gesso), or what `make` returns, which is
    put there. depth: as `gesso.planning.plan.plan` has it."""
    cache = Path(os.environ.get("GESSO_CACHE") or Path.home() / ".cache/gesso") / "plans"
    note = "" if depth == "whole" else f"-{depth}"
    path = cache / f"{cache_key(experiment, where)}{note}.json"
    if path.exists():
        return json.loads(path.read_text())
    made = make()
    write_durably(path, json.dumps(made))
    return made
