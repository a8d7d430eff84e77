"""Encode rates of the tokenizers on the embedded corpus, as ratios within one run.

    python benchmarks/tokenizer_rates.py [--megabytes 4] [--json]

The engines of byte-level BPE get the same file and must give the same ids. Rates are per second of
CPU time of the whole process, best of three, so that threads are not free; on a noisy machine
only the ratios say anything.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from gesso.data.embedded.corpus import corpus_shards
from gesso.data.embedded.shards import read_shard
from gesso.data.tokenizers.bpe import _TokenizersEngine
from gesso.data.tokenizers.bpe import train as train_bpe
from gesso.data.tokenizers.load import load_tokenizer
from gesso.data.tokenizers.merges import read_definition
from gesso.data.tokenizers.sentencepiece import train as train_sentencepiece

VOCAB_SIZE = 8192
TRAIN_BYTES = 3_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.megabytes)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{figures['megabytes']:.1f} MB in {figures['documents']} documents")
    for name, row in figures["tokenizers"].items():
        print(
            f"{name:34s} {row['megabytes_per_cpu_second']:8.1f} MB/cpu-s"
            f" {row['tokens_per_cpu_second'] / 1e6:8.2f} Mtok/cpu-s"
            f" {row['bytes_per_token']:6.2f} bytes/token {row['ratio']:7.2f} x tokenizers"
        )


def measure(megabytes: float) -> dict:
    """{"megabytes", "documents", "tokenizers": {name: rates}}; ratio: to `tokenizers`."""
    texts = [text for path in corpus_shards(megabytes) for _, text in read_shard(path)]
    size = sum(len(text.encode()) for text in texts)
    bpe = train_bpe(iter(texts), vocab_size=VOCAB_SIZE, limit_bytes=TRAIN_BYTES)
    assert bpe.engine == "tiktoken"
    definition = json.loads(bpe.payload()["tokenizer.json"])
    slow = _TokenizersEngine(definition, read_definition(definition))
    whole = _TokenizersEngine(definition, read_definition(definition))
    whole._chunk = 1 << 40
    encoders: dict[str, Callable[[list[str]], list[np.ndarray]]] = {
        "bytes": load_tokenizer("bytes").encode_batch,
        "bpe, tiktoken engine": bpe.encode_batch,
        "bpe, tokenizers engine": slow.encode_batch,
        "bpe, tokenizers, whole documents": whole.encode_batch,
    }
    for kind in ("bpe", "unigram"):
        trained = train_sentencepiece(
            iter(texts), vocab_size=VOCAB_SIZE, kind=kind, limit_bytes=TRAIN_BYTES
        )
        encoders[f"sentencepiece {kind}"] = trained.encode_batch
    rows, ids = {}, {}
    for name, encode in encoders.items():
        seconds = []
        for _ in range(3):
            start = time.process_time()
            ids[name] = encode(texts)
            seconds.append(time.process_time() - start)
        tokens = sum(map(len, ids[name]))
        rows[name] = {
            "megabytes_per_cpu_second": round(size / 1e6 / min(seconds), 2),
            "tokens_per_cpu_second": round(tokens / min(seconds)),
            "bytes_per_token": round(size / tokens, 3),
        }
    for name in ("bpe, tokenizers engine", "bpe, tokenizers, whole documents"):
        for one, other in zip(ids["bpe, tiktoken engine"], ids[name], strict=True):
            np.testing.assert_array_equal(one, other)
    base = rows["bpe, tokenizers engine"]["megabytes_per_cpu_second"]
    for row in rows.values():
        row["ratio"] = round(row["megabytes_per_cpu_second"] / base, 2)
    return {"megabytes": size / 1e6, "documents": len(texts), "tokenizers": rows}


if __name__ == "__main__":
    main()
