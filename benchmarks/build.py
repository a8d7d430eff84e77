"""What building a token store costs beside its tokenizer, and that its memory does not grow.

    python benchmarks/build.py [--small]

Prints one JSON object. Time: CPU-seconds of `build` over the CPU-seconds of the tokenizer's own
`encode_batch` on the same texts held in memory, in one process (limit: 1.3 for tokenizers that do
more than copy bytes). Memory: peak resident bytes of a process that builds 1 GB over one that
builds 100 MB (limit: 1.1). --small: 4 MB for time, 40 MB and 160 MB for memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from gesso.data.embedded.corpus import corpus_shards
from gesso.data.embedded.shards import read_shard
from gesso.data.store.build import build
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.bpe import train as train_bpe
from gesso.data.tokenizers.load import load_tokenizer
from gesso.data.tokenizers.sentencepiece import train as train_sentencepiece

ROOT = Path(__file__).resolve().parents[1]
VOCAB_SIZE = 8192
TRAIN_BYTES = 3_000_000
BATCH_BYTES = 1 << 20
TIME_LIMIT, MEMORY_LIMIT = 1.3, 1.1
# VmHWM is of the program alone; ru_maxrss keeps, over exec, what the process that forked it had.
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from gesso.data.store.build import build
build(sources=[sys.argv[2]], folder=sys.argv[3], tokenizer="bytes")
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of building a token store.")
    parser.add_argument("--small", action="store_true", help="a minute instead of several")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        time_bytes = 4_000_000 if asked.small else 16_000_000
        sizes = (40_000_000, 160_000_000) if asked.small else (100_000_000, 1_000_000_000)
        figures = {
            "time": measure_time(Path(folder) / "time", size=time_bytes),
            "memory": measure_memory(Path(folder) / "memory", sizes=sizes),
        }
    print(json.dumps(figures, indent=1))


def measure_time(folder: Path, *, size: int) -> dict[str, Any]:
    """CPU-seconds of build and of encoding alone per tokenizer, best of two, and their ratio."""
    folder.mkdir(parents=True)
    corpus = write_corpus(folder / "corpus.jsonl.zst", size=size)
    texts = [text for _, text in read_shard(corpus)]
    rows = {}
    for name, tokenizer in tokenizers():
        encode = min(encode_seconds(tokenizer, texts) for _ in range(2))
        whole = min(build_seconds(tokenizer, corpus, folder / "store") for _ in range(2))
        rows[name] = {
            "megabytes_per_cpu_second": round(size / 1e6 / whole, 1),
            "encode_seconds": round(encode, 3),
            "build_seconds": round(whole, 3),
            "ratio": round(whole / encode, 3),
        }
    # The bytes tokenizer copies memory; beside it reading and checksums are all the time there is.
    good = all(row["ratio"] <= TIME_LIMIT for name, row in rows.items() if name != "bytes")
    return {"megabytes": size / 1e6, "limit": TIME_LIMIT, "within": good, "tokenizers": rows}


def measure_memory(folder: Path, *, sizes: tuple[int, int]) -> dict[str, Any]:
    """Peak resident megabytes of two builds of different size, and their ratio."""
    folder.mkdir(parents=True)
    peaks = []
    for size in sizes:
        corpus = write_corpus(folder / "corpus.jsonl.zst", size=size)
        command = [sys.executable, "-c", CHILD, str(ROOT), str(corpus), str(folder / "store")]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(found.stdout.split()[-1]))
        shutil.rmtree(folder / "store")
    ratio = peaks[1] / peaks[0]
    return {
        "megabytes": [size / 1e6 for size in sizes],
        "peak_megabytes": [round(peak / 1e6, 1) for peak in peaks],
        "ratio": round(ratio, 3),
        "limit": MEMORY_LIMIT,
        "within": ratio <= MEMORY_LIMIT,
    }


def tokenizers() -> Iterator[tuple[str, Tokenizer]]:
    """bytes; sentencepiece BPE and byte-level BPE, trained on the embedded corpus."""
    yield "bytes", load_tokenizer("bytes")
    sample, taken = [], 0
    for _, text in documents():
        sample.append(text)
        taken += len(text)
        if taken > TRAIN_BYTES:
            break
    yield "sentencepiece", train_sentencepiece(iter(sample), vocab_size=VOCAB_SIZE, kind="bpe")
    yield "byte-level BPE", train_bpe(iter(sample), vocab_size=VOCAB_SIZE)


def encode_seconds(tokenizer: Tokenizer, texts: list[str]) -> float:
    """CPU-seconds of encoding all texts in batches of about BATCH_BYTES characters."""
    batches: list[list[str]] = [[]]
    held = 0
    for text in texts:
        batches[-1].append(text)
        held += len(text)
        if held >= BATCH_BYTES:
            batches.append([])
            held = 0
    started = time.process_time()
    for batch in batches:
        tokenizer.encode_batch(batch)
    return time.process_time() - started


def build_seconds(tokenizer: Tokenizer, corpus: Path, folder: Path) -> float:
    """CPU-seconds of a whole build in this process."""
    started = time.process_time()
    build(sources=[corpus], folder=folder, tokenizer=tokenizer)
    seconds = time.process_time() - started
    shutil.rmtree(folder)
    return seconds


def documents() -> Iterator[tuple[str, str]]:
    """(component, text) of the corpus that comes with Python."""
    for shard in corpus_shards():
        yield from read_shard(shard)


def write_corpus(path: Path, *, size: int) -> Path:
    """A .jsonl.zst of about `size` bytes of text: the embedded corpus over and over, with a number
    in front, so that no two documents are equal."""
    written, number = 0, 0
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        while written < size:
            for component, text in documents():
                record = {"text": f"{number} {text}", "meta": {"pile_set_name": component}}
                stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                number += 1
                written += len(text.encode())
                if written >= size:
                    break
    return path


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
