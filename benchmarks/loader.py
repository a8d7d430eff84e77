"""How fast rows are made: million tokens per CPU-second, beside Grain's packed pipelines.

    python benchmarks/loader.py [--megatokens 32] [--store FOLDER]

Prints one JSON object. Rates are per CPU-second of this process (user and system), from the first
row on, plans and permutations included. Grain (bench extra) reads the same documents of the same
components by the same weights in the same run, from memory where ours reads the store's files.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gesso.data.config import BuildConfig, MixtureConfig, OrderConfig
from gesso.data.open import open_store
from gesso.data.order.order import Order
from gesso.data.order.pack import pieces
from gesso.data.store.build import build

# Medians of log-normal document lengths (sigma 1.1): from chat lines to books.
MEDIANS = {"Short": 200, "Web": 700, "Code": 1500, "Books": 6000}
WEIGHTS = {"Short": 0.2, "Web": 0.4, "Code": 0.3, "Books": 0.1}
LENGTHS = (512, 2048, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per CPU-second, beside Grain.")
    parser.add_argument("--megatokens", type=float, default=32.0, help="size of the corpus")
    parser.add_argument("--store", default="", help="a finished store instead of a synthetic one")
    parser.add_argument("--batch_tokens", type=int, default=1 << 18, help="tokens of a batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU-seconds per measurement")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(asked.store or write_store(Path(folder), int(asked.megatokens * 1e6)))
        print(json.dumps(measure(store, asked.batch_tokens, asked.seconds), indent=2))


def measure(store: Any, batch_tokens: int, seconds: float) -> dict[str, Any]:
    """All figures of one run: {"lengths": {length: ...}, "grain": ..., "ratio": ...}."""
    weights = WEIGHTS if set(WEIGHTS) <= set(store.components) else {}
    mixture = MixtureConfig(kind="weights", values=weights) if weights else MixtureConfig()
    figures: dict[str, Any] = {"components": len(store.components), "lengths": {}}
    for length in LENGTHS:
        figures["lengths"][length] = {
            packing: ours(store, mixture, length, packing, batch_tokens, seconds)
            for packing in ("best_fit", "concat")
        }
    rate = figures["lengths"][2048]["best_fit"]["million_tokens_per_cpu_second"]
    figures["million_tokens_per_cpu_second"] = rate
    if importlib.util.find_spec("grain") is None:
        figures["grain"] = "not installed: pip install -e '.[bench]'"
        return figures
    figures["grain"] = peers(store, weights, 2048, batch_tokens, seconds)
    figures["ratio"] = {
        name: round(rate / peer["million_tokens_per_cpu_second"], 2)
        for name, peer in figures["grain"].items()
    }
    return figures


def ours(
    store: Any, mixture: MixtureConfig, length: int, packing: Any, batch_tokens: int, seconds: float
) -> dict[str, float]:
    order = Order(store, OrderConfig(length=length, packing=packing, mixture=mixture))
    n = max(1, batch_tokens // length)

    def batches() -> Iterator[Any]:
        row = 0
        while True:
            yield order.rows(row, n)["segments"]
            row += n

    return rate(batches(), seconds)


def peers(
    store: Any, weights: dict[str, float], length: int, batch_tokens: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Grain's two packings over the store's documents, mixed by the same weights."""
    import grain

    whole = {name: documents_of(store, name) for name in store.components}
    cut = {
        name: [tokens[a : a + n] for a, n in cuts(tokens, sizes, length)]
        for name, (tokens, sizes) in whole.items()
    }
    joined = {name: list(np.split(t, np.cumsum(s)[:-1])) for name, (t, s) in whole.items()}

    def mixed(documents: dict[str, list[np.ndarray]]) -> Any:
        parts, shares = [], []
        for name, items in documents.items():
            source = grain.MapDataset.source([{"tokens": each} for each in items])
            parts.append(source.shuffle(seed=len(parts) + 1).repeat())
            # Grain's weights count documents, ours count tokens.
            mean = np.mean([len(each) for each in items])
            shares.append(weights[name] / mean if weights else float(len(items)))
        return grain.MapDataset.mix(parts, weights=shares).to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        )

    n = max(1, batch_tokens // length)
    packed: dict[str, Callable[[], Any]] = {
        "best_fit_64_bins": lambda: grain.experimental.BestFitPackIterDataset(
            mixed(cut), length_struct={"tokens": length}, num_packing_bins=64
        ),
        "concat_then_split": lambda: grain.experimental.ConcatThenSplitIterDataset(
            mixed(joined), length_struct={"tokens": length}
        ),
    }
    figures = {}
    for name, make in packed.items():
        found = (each["tokens_segment_ids"] for each in make().batch(n))
        figures[name] = rate(found, seconds)
    return figures


def rate(segments: Iterator[np.ndarray], seconds: float) -> dict[str, float]:
    """Tokens that are not padding per CPU-second, of batches of segment numbers (0 = padding)."""
    tokens = places = 0
    spent = 0.0
    wall = time.perf_counter()
    while spent < seconds:
        start = time.process_time()
        batch = next(segments)
        spent += time.process_time() - start
        tokens += int(np.count_nonzero(batch))
        places += batch.size
    return {
        "million_tokens_per_cpu_second": round(tokens / spent / 1e6, 2),
        "padding": round(1 - tokens / places, 6),
        "million_tokens": round(tokens / 1e6, 1),
        "wall_seconds": round(time.perf_counter() - wall, 2),
    }


def documents_of(store: Any, component: str) -> tuple[np.ndarray, np.ndarray]:
    tokens, sizes, e = [], [], 0
    while (era := store.era(e)) is not None:
        lengths = era.lengths(component, "train")
        if len(lengths):
            total = np.array([lengths.sum()])
            tokens.append(era.read(component, "train", np.zeros(1, np.int64), total))
            sizes.append(lengths)
        e += 1
    return np.concatenate(tokens), np.concatenate(sizes)


def cuts(tokens: np.ndarray, sizes: np.ndarray, length: int) -> list[tuple[int, int]]:
    starts, lengths = pieces(sizes, length=length, overlap=1)
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def write_store(folder: Path, tokens: int) -> Path:
    """A store of four components with as many tokens each, out of random letters."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    ", np.uint8)
    noise = letters[rng.integers(0, len(letters), 1 << 22)].tobytes().decode()
    for shard in range(2):
        with (folder / f"{shard:02d}.jsonl").open("w") as lines:
            for name, median in MEDIANS.items():
                left = tokens // len(MEDIANS) // 2
                while left > 0:
                    n = int(np.clip(median * rng.lognormal(0, 1.1), 8, len(noise) // 2))
                    at = int(rng.integers(0, len(noise) - n))
                    record = {"text": noise[at : at + n], "meta": {"pile_set_name": name}}
                    lines.write(json.dumps(record) + "\n")
                    left -= n
    build(BuildConfig(sources=(f"{folder}/*.jsonl",), folder=f"{folder}/store", holdout=0.001))
    return folder / "store"


if __name__ == "__main__":
    main()
