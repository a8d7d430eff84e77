"""What a token store is: the settings its bytes depend on, their fingerprint, its `meta.json`.

A folder belongs to one identity for ever. Building into it with another one is refused by name of
the first field that differs; the one exception is a source repaired before its shard is finished.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gesso.data.config import BuildConfig
from gesso.data.store.locks import SHARED, FileLock, Locked
from gesso.data.store.parts import FORMAT, read_commits
from gesso.data.text.rejects import BuildError
from gesso.data.text.shards import Shard
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import save_tokenizer
from gesso.storage.files import leftovers, write_durably

# What the bytes of a store depend on, as JSON.
Identity = dict[str, Any]
META = "meta.json"
LOCKS = "locks"
REPAIRS = "repairs.json"
_OURS = {META, LOCKS, "tokenizer"}


def identity(config: BuildConfig, *, shards: tuple[Shard, ...], tokenizer: Tokenizer) -> Identity:
    """Everything the bytes of a store depend on, as JSON.

    Paths, workers, share and reject_cap do not enter: they do not change what is committed.
    """
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "dtype": tokenizer.dtype.str,
        "text_key": config.text_key,
        "component_key": config.component_key,
        "text_split": config.text_split,
        "holdout": config.holdout,
        "on_bad_input": config.on_bad_input,
        "max_document_bytes": config.max_document_bytes,
        "part_tokens_first": config.part_tokens_first,
        "part_tokens_cap": config.part_tokens_cap,
        "shards": [
            {
                "name": shard.name,
                "form": shard.form,
                "component": shard.component,
                "split": shard.split,
                "size": shard.size,
                "digest": shard.digest,
            }
            for shard in shards
        ],
    }


def fingerprint(identity: Identity) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def prepare_folder(
    folder: Path, wanted: Identity, *, tokenizer: Tokenizer, step: Callable[[str], None]
) -> None:
    """Make the folder this identity's, or see that it is.

    Raises BuildError where it holds something else or was built with other settings.
    """
    meta = folder / META
    if not meta.exists():
        _check_unused(folder)
    elif not _is_repaired(folder, json.loads(meta.read_bytes()), wanted):
        return
    lock = FileLock(folder / LOCKS / "meta.lock", what=f"{folder}", advice=SHARED)
    _acquire_soon(lock)
    try:
        for left in leftovers(folder):
            left.unlink()
        if meta.exists():
            found = json.loads(meta.read_bytes())
            if not _is_repaired(folder, found, wanted):
                return
            repairs = folder / REPAIRS
            earlier = json.loads(repairs.read_bytes()) if repairs.exists() else []
            content = json.dumps([*earlier, found["fingerprint"]], indent=1).encode()
            write_durably(repairs, content, step=step)
        else:
            save_tokenizer(tokenizer, folder / "tokenizer")
        content = json.dumps({"fingerprint": fingerprint(wanted), **wanted}, indent=1).encode()
        write_durably(meta, content, step=step)
    finally:
        lock.release()


def _check_unused(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BuildError(f"{folder} is a file; give a folder for the token store")
    held = set(folder.iterdir()) - set(leftovers(folder)) if folder.exists() else set()
    foreign = sorted({path.name for path in held} - _OURS)
    if foreign:
        raise BuildError(
            f"{folder} holds {', '.join(foreign[:4])} and no token store; give a new folder"
        )


def _is_repaired(folder: Path, found: Identity, wanted: Identity) -> bool:
    """Whether the folder's record differs from what is wanted by repaired sources alone.

    False: not at all. Raises BuildError for any other difference.
    """
    for field, value in wanted.items():
        if field != "shards" and found.get(field) != value:
            raise BuildError(
                f"{folder} was built with {field} {found.get(field)!r}, not {value!r}; "
                "use that value, or another folder"
            )
    if [shard["name"] for shard in found["shards"]] != [
        shard["name"] for shard in wanted["shards"]
    ]:
        raise BuildError(
            f"{folder} was built from other sources: {_names(found)}, not {_names(wanted)}; "
            "use those, or another folder"
        )
    repaired = False
    for number, (old, new) in enumerate(zip(found["shards"], wanted["shards"], strict=True)):
        differing = sorted(key for key in new if old.get(key) != new[key])
        if not differing:
            continue
        field = differing[-1]
        if not set(differing) <= {"size", "digest"} or not _may_change(folder, number, new):
            raise BuildError(
                f"{folder} was built with shards: {new['name']} of {field} {old.get(field)!r}, "
                f"now {new[field]!r}; restore the source, or use another folder"
            )
        repaired = True
    return repaired


def _may_change(folder: Path, number: int, shard: Identity) -> bool:
    """Whether a source may have been repaired or have grown: its shard is not finished, and
    what is committed can be checked against the new file (readers.py does) or is nothing yet."""
    parts = list(read_commits(folder / f"s{number:05d}"))
    return not parts or (shard["form"] in ("jsonl", "text") and not parts[-1]["last"])


def _names(record: Identity) -> str:
    names = [shard["name"] for shard in record["shards"]]
    return ", ".join(names[:4]) + (f" ... ({len(names)})" if len(names) > 4 else "")


def _acquire_soon(lock: FileLock) -> None:
    for _ in range(100):
        try:
            return lock.acquire()
        except Locked:
            time.sleep(0.1)
    return lock.acquire()
