"""The token store, read: eras of committed parts, memory-mapped, while the builder still writes.

Era e is part e of every shard. Which documents an era holds depends on the sources and the rule
that closes parts, never on who built it or when. docs/token_store.md describes the files.
"""

import hashlib
import json
import threading
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from gesso.data.store.base import SPLITS, Era, Split, TextStore, Totals
from gesso.data.store.errors import BuildFailed, StoreBehind, StoreDamaged
from gesso.data.store.parts import ERROR, Commit, part_file, read_commits, tokens_suffix
from gesso.data.store.verify import problems

_POLL_SECONDS = 0.2
# Linux allows a process 65,530 mappings; 600 eras of 30 shards and 22 components would be more.
_MAPS = 4096
# Above this many documents the rate of duplicates is estimated from a share of the hashes.
_EXACT_DUPLICATES = 1 << 24


class TokenStore(TextStore):
    """A folder of committed parts. meta: its meta.json. dtype: of its tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_bytes())
        self.fingerprint: str = self.meta["fingerprint"]
        self.dtype = np.dtype(self.meta["dtype"])
        self.eos: int = self.meta["eos"]
        self._commits: list[list[Commit]] = [[] for _ in self.meta["shards"]]
        self._lock = threading.RLock()
        self._maps: OrderedDict[Path, np.ndarray] = OrderedDict()

    @property
    def earlier_fingerprints(self) -> tuple[str, ...]:
        path = self.folder / "repairs.json"
        return tuple(json.loads(path.read_bytes())) if path.exists() else ()

    @property
    def components(self) -> tuple[str, ...]:
        """Names of all components committed so far, sorted."""
        return tuple(sorted({name for part in self._parts() for name in part["components"]}))

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        self._refresh()
        return all(commits and commits[-1]["last"] for commits in self._commits)

    def error(self) -> str:
        paths = [self.folder / ERROR, *sorted(self.folder.glob(f"s*/{ERROR}"))]
        found = [json.loads(path.read_bytes()) for path in paths if path.exists()]
        return "; ".join(str(record.get("message", record)) for record in found)

    def era(self, number: int, *, wait_seconds: float = 0.0) -> "TokenEra | None":
        deadline = time.monotonic() + wait_seconds
        while not self._is_decided(number):
            if error := self.error():
                # It may have committed and failed between the two looks.
                if self._is_decided(number):
                    break
                raise BuildFailed(f"the builder of {self.folder} stopped: {error}")
            if time.monotonic() >= deadline:
                raise StoreBehind(self._behind(number))
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        parts = [
            (shard, commits[number])
            for shard, commits in enumerate(self._commits)
            if number < len(commits)
        ]
        return TokenEra(self, number, parts) if parts else None

    def totals(self) -> Totals:
        """{component: {split: {"documents", "tokens", "bytes", "words"}}} of what is committed.

        tokens count each document's EOS; bytes are of the text's UTF-8; words are runs of bytes
        other than ASCII white space.
        """
        totals: dict[str, dict[str, Counter[str]]] = {}
        for part in self._parts():
            for name, splits in part["components"].items():
                mine = totals.setdefault(name, {split: Counter() for split in SPLITS})
                for split in SPLITS:
                    account = splits.get(split)
                    for unit in ("documents", "tokens", "bytes", "words"):
                        mine[split][unit] += account[unit] if account else 0
        return {
            name: {split: dict(totals[name][split]) for split in SPLITS} for name in sorted(totals)
        }

    def rejects(self) -> dict[str, int]:
        """{reason: records} refused so far; data/text/rejects.py says what the reasons mean."""
        counts: Counter[str] = Counter()
        for part in self._parts():
            counts.update(part["rejects"])
        return dict(sorted(counts.items()))

    def duplicates(self) -> float:
        """The share of documents whose exact text came before, in any component or shard.

        Exact up to 16.8 million documents; beyond, from every text whose hash ends in some zeros.
        """
        documents = sum(part["records"] - sum(part["rejects"].values()) for part in self._parts())
        mask = np.uint64(0)
        while documents >> int(mask).bit_count() > _EXACT_DUPLICATES:
            mask = mask << np.uint64(1) | np.uint64(1)
        kept = []
        for shard, commits in enumerate(self._commits):
            for part in commits:
                found = np.fromfile(
                    part_file(self.shard_folder(shard), part["part"], "hash"), "<u8"
                )
                kept.append(found[found & mask == 0])
        hashes = np.concatenate(kept) if kept else np.zeros(0, np.uint64)
        return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0

    def verify(self) -> list[str]:
        self._refresh()
        return list(problems(self, self._commits))

    def shard_folder(self, shard: int) -> Path:
        """Where a shard's parts are."""
        return self.folder / f"s{shard:05d}"

    def tokens(self, path: Path, *, count: int) -> np.ndarray:
        """A token file's content as a read-only view. Raises StoreDamaged if its size is wrong."""
        with self._lock:
            if path in self._maps:
                self._maps.move_to_end(path)
                return self._maps[path]
            size = path.stat().st_size if path.exists() else -1
            if size != count * self.dtype.itemsize:
                raise StoreDamaged(
                    f"{path}: {size} bytes, its commit record says "
                    f"{count * self.dtype.itemsize}; run `gesso corpus verify`"
                )
            # A plain array over the mapping: slices of np.memmap itself are five times slower.
            mapped = np.asarray(np.memmap(path, self.dtype, "r"))
            self._maps[path] = mapped
            if len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
            return mapped

    def _parts(self) -> list[Commit]:
        self._refresh()
        return [part for commits in self._commits for part in commits]

    def _refresh(self) -> None:
        with self._lock:
            for shard, commits in enumerate(self._commits):
                if not commits or not commits[-1]["last"]:
                    commits.extend(read_commits(self.shard_folder(shard), start=len(commits)))

    def _is_decided(self, number: int) -> bool:
        """Whether every shard has the part or is known to end before it."""
        with self._lock:
            for shard, commits in enumerate(self._commits):
                if number < len(commits) or (commits and commits[-1]["last"]):
                    continue
                commits.extend(read_commits(self.shard_folder(shard), start=len(commits)))
                if number >= len(commits) and not (commits and commits[-1]["last"]):
                    return False
        return True

    def _behind(self, number: int) -> str:
        late = [
            record["name"]
            for record, commits in zip(self.meta["shards"], self._commits, strict=True)
            if number >= len(commits) and not (commits and commits[-1]["last"])
        ]
        return (
            f"{self.folder}: era {number} is not built yet; it lacks part {number} of "
            f"{', '.join(late[:3])}{' ...' if len(late) > 3 else ''}. Is the builder running?"
        )


class TokenEra(Era):
    """Part `number` of every shard that has one, as one sequence per component and split."""

    def __init__(self, store: TokenStore, number: int, parts: list[tuple[int, Commit]]) -> None:
        self.number = number
        # sha256 of the commit records, which hold a checksum of every file of the era.
        self.fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self._store = store
        self._runs: dict[tuple[str, str], list[tuple[Path, int, int]]] = {}
        for shard, part in parts:
            folder = store.shard_folder(shard)
            for name, splits in part["components"].items():
                for split in SPLITS:
                    if account := splits.get(split):
                        suffix = tokens_suffix(splits["file"], split)
                        path = part_file(folder, number, suffix)
                        run = (path, account["tokens"], account["documents"])
                        self._runs.setdefault((name, split), []).append(run)
        self._bounds = {
            key: np.cumsum([0, *(tokens for _, tokens, _ in runs)])
            for key, runs in self._runs.items()
        }

    def tokens(self, component: str, split: Split) -> int:
        """Tokens of a component and split in this era, EOS included."""
        return int(self._bounds[component, split][-1]) if (component, split) in self._runs else 0

    def lengths(self, component: str, split: Split) -> np.ndarray:
        """As Era.lengths, in (shard, document) order."""
        found = [np.zeros(0, np.int64)]
        for path, tokens, documents in self._runs.get((component, split), ()):
            offsets = np.fromfile(path.with_name(f"{path.name}.off"), "<i8")
            if len(offsets) != documents + 1 or offsets[-1] != tokens:
                raise StoreDamaged(f"{path}.off: not what its commit record says")
            found.append(np.diff(offsets))
        return np.concatenate(found).astype(np.int64, copy=False)

    def read(
        self, component: str, split: Split, starts: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        starts = np.asarray(starts, np.int64)
        lengths = np.asarray(lengths, np.int64)
        total = self.tokens(component, split)
        ends = starts + lengths
        if len(starts) and (starts.min() < 0 or lengths.min() < 0 or ends.max() > total):
            raise IndexError(
                f"era {self.number}, {component!r} {split}: a piece lies outside 0..{total}"
            )
        out = np.empty(int(lengths.sum()), self._store.dtype)
        if not len(out):
            return out
        runs, bounds = self._runs[component, split], self._bounds[component, split]
        first = np.searchsorted(bounds, starts, "right") - 1
        last = np.searchsorted(bounds, ends, "left") - 1
        maps: dict[int, np.ndarray] = {}
        base = bounds.tolist()
        at = 0
        for start, length, run, end_run in zip(
            starts.tolist(), lengths.tolist(), first.tolist(), last.tolist(), strict=True
        ):
            stop = start + length
            while run <= end_run:  # more than once only where a piece runs over parts
                if run not in maps:
                    path, tokens, _ = runs[run]
                    whole = path.with_name(f"{path.name}.tok")
                    maps[run] = self._store.tokens(whole, count=tokens)
                low = start - base[run]
                piece = maps[run][low : min(stop, base[run + 1]) - base[run]]
                out[at : at + len(piece)] = piece
                at += len(piece)
                start += len(piece)
                run += 1
        return out
