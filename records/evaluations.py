"""What `gesso evaluate` found of a run, kept in its folder: RUN/evaluations/NAME.json."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso.storage.files import write_json

FOLDER = "evaluations"


def write_evaluation(
    folder: Path, kind: str, *, step: int, of: str, figures: Mapping[str, Any]
) -> Path:
    """Keep figures of the run in `folder` after `step` updates; those of an earlier call of the
    same kind, of the same thing, after the same step are replaced. of: the file or task. Returns
    the file."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", of).strip("-.")[:80]
    path = folder / FOLDER / f"{'-'.join(filter(None, (kind, label)))}-{step}.json"
    path.parent.mkdir(exist_ok=True)
    record = {"kind": kind, "of": of, "step": step, "time": time.time(), "figures": figures}
    write_json(path, record)
    return path


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """{"kind", "of", "step", "time", "figures"} of all that was kept, in the order of steps; files
    that are something else are passed over."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        known = isinstance(record, dict) and record.keys() >= {"kind", "of", "step", "figures"}
        if known and isinstance(record["step"], int) and isinstance(record["figures"], dict):
            found.append(record)
    return sorted(found, key=lambda record: (record["kind"], record["of"], record["step"]))
