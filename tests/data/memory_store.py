"""A token store in memory, with the interface of data.store: what the order needs and no more."""

import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gesso.data.store.errors import BuildFailed, StoreBehind


@dataclass
class MemoryEra:
    documents: dict[tuple[str, str], list[np.ndarray]]

    @property
    def fingerprint(self) -> str:
        crc = 0
        for name in sorted(self.documents):
            for document in self.documents[name]:
                crc = zlib.crc32(document.tobytes(), zlib.crc32(repr(name).encode(), crc))
        return f"{crc:08x}"

    def lengths(self, component: str, split: str) -> np.ndarray:
        documents = self.documents.get((component, split), [])
        return np.array([len(each) for each in documents], np.int64)

    def read(self, component, split, starts, lengths) -> np.ndarray:
        joined = np.concatenate(self.documents[component, split])
        parts = [joined[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        return np.concatenate(parts)


@dataclass
class MemoryStore:
    folder: Path
    eras: list[MemoryEra]
    complete: bool = True
    seed: int = 0
    failure: str = ""
    tokenizer_name: str = "bytes"
    earlier_fingerprints: tuple[str, ...] = ()
    asked: list[int] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"memory {self.seed}".encode()).hexdigest()

    def tokenizer(self):
        return SimpleNamespace(fingerprint=hashlib.sha256(self.tokenizer_name.encode()).hexdigest())

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(sorted({name for era in self.eras for name, _ in era.documents}))

    def era(self, e: int, wait_seconds: float = 0.0) -> MemoryEra | None:
        self.asked.append(e)
        if self.failure:
            raise BuildFailed(self.failure)
        if e < len(self.eras):
            return self.eras[e]
        if self.complete:
            return None
        raise StoreBehind(f"era {e} is not there yet")

    def totals(self):
        totals = {
            name: {split: {"tokens": 0, "documents": 0} for split in ("train", "holdout")}
            for name in self.components
        }
        for era in self.eras:
            for (name, split), documents in era.documents.items():
                totals[name][split]["tokens"] += sum(map(len, documents))
                totals[name][split]["documents"] += len(documents)
        return totals


def make_store(
    folder: Path,
    *,
    components: tuple[str, ...] = ("Code", "Law", "Wiki"),
    eras: int = 3,
    documents: int = 40,
    mean: float = 30.0,
    seed: int = 0,
) -> MemoryStore:
    """Documents of random lengths. No token occurs twice in the store, so that a test sees where
    every token of a row came from. Later components and eras have more documents."""
    rng = np.random.default_rng(seed)
    token, built = 0, []
    for era in range(eras):
        held = {}
        for c, name in enumerate(components):
            for split, share in (("train", 1.0), ("holdout", 0.3)):
                count = max(1, int(documents * share * (1 + c + era) / 2))
                made = []
                for n in (1 + rng.geometric(1 / mean, count)).tolist():
                    made.append(np.arange(token, token + n, dtype=np.uint32))
                    token += n
                held[name, split] = made
        built.append(MemoryEra(held))
    return MemoryStore(folder=folder, eras=built, seed=seed)


def documents_of(store: MemoryStore, component: str, split: str = "train") -> list[np.ndarray]:
    """All documents of a component, era by era."""
    return [each for era in store.eras for each in era.documents.get((component, split), [])]
