"""A small file beside a store that remembers how many rows each era packs into."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from gesso.data.store.base import Store
from gesso.storage.files import write_durably


class CountsFile:
    """{era: {component: (rows, tokens)}}, kept for as long as the era's content stays the same.

    A cache and nothing more: without it, or with a damaged one, the eras are counted again. It
    lies in STORE/plans, or under the user's cache folder when the store cannot be written to.
    """

    def __init__(self, store: Store, *, name: str, form: str) -> None:
        cache = Path(os.environ.get("GESSO_CACHE") or Path.home() / ".cache/gesso")
        self._paths = (
            Path(store.folder) / "plans" / name,
            cache / "plans" / store.fingerprint[:12] / name,
        )
        self._form = form
        self._lock = threading.Lock()
        self._eras: dict[str, dict[str, Any]] = {}
        for path in reversed(self._paths):
            self._eras |= _read(path, form)

    @property
    def path(self) -> Path:
        """Where the counts are: the first of the two places that has them."""
        return next((path for path in self._paths if path.exists()), self._paths[0])

    def recall(self, era: int, fingerprint: str) -> dict[str, tuple[int, int]]:
        """{component: (rows, tokens)} of an era; empty when it was not counted or has changed."""
        try:
            entry = self._eras[str(era)]
            if entry["fingerprint"] == fingerprint:
                return {name: (int(n), int(m)) for name, (n, m) in entry["counts"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # not counted, or not by us
        return {}

    def keep(self, era: int, fingerprint: str, counts: dict[str, tuple[int, int]]) -> None:
        """Remember an era's counts, and write them when they are news."""
        entry = {
            "fingerprint": fingerprint,
            "counts": {name: list(pair) for name, pair in sorted(counts.items())},
        }
        with self._lock:
            if self._eras.get(str(era)) == entry:
                return
            self._eras[str(era)] = entry
            text = json.dumps({"format": self._form, "eras": self._eras})
        for path in self._paths:
            try:
                write_durably(path, text)
                break
            except OSError:  # a read-only store; nowhere at all only costs the next start time
                continue


def _read(path: Path, form: str) -> dict[str, dict[str, Any]]:
    try:
        record = json.loads(path.read_text())
        if record["format"] == form and isinstance(record["eras"], dict):
            return record["eras"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}
