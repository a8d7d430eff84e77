"""Parameters as safetensors files, one tensor in memory at a time, in shards with an index."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gesso.export.files.weights import checksum
from gesso.export.tables.tables import Place, Tree, write_tensors

TAGS = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
# Bytes between two calls of fsync: with one for every tensor, writing takes ten times as long.
_AT_ONCE = 1 << 28


def write_weights(
    folder: Path,
    places: Sequence[Place],
    params: Tree,
    *,
    dtype: str,
    max_shard_bytes: int,
    copies: Mapping[str, str],
) -> dict[str, int]:
    """Write `params` ({path: array}) as a table says; returns {tensor: crc32 of its bytes}.
    copies: {tensor: another name that it is written under as well}.

    One model.safetensors, or model-0000i-of-0000n.safetensors and their index where that would be
    over max_shard_bytes; a tensor is never cut. Raises FolderError as write_tensors does.
    """
    tag, kind = TAGS[dtype]
    shapes = {
        name: place.shape
        for place in places
        for first in place.tensors.values()
        for name in (first, *([copies[first]] if first in copies else []))
    }
    shards = _shards(shapes, kind.itemsize, max_shard_bytes)
    tensors = write_tensors(places, params, dtype=kind, copies=copies)
    checksums: dict[str, int] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = "model.safetensors" if len(shards) == 1 else file
        with (folder / file).open("wb") as f, ThreadPoolExecutor(1) as pool:
            f.write(_header(names, shapes, tag, kind.itemsize))
            waiting = 0
            for name in names:
                made, x = next(tensors)
                assert made == name and x.shape == shapes[name]
                x.tofile(f)
                waiting += x.nbytes
                if waiting >= _AT_ONCE:
                    pool.submit(os.fsync, f.fileno())  # the disk works while the next is made
                    waiting = 0
                checksums[name], weight_map[name] = checksum(x), file
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * kind.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=1) + "\n"
        (folder / "model.safetensors.index.json").write_text(text)
    return checksums


def _shards(shapes: Mapping[str, tuple[int, ...]], itemsize: int, most: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _header(
    names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], tag: str, itemsize: int
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    at = 0
    for name in names:
        size = math.prod(shapes[name]) * itemsize
        entries[name] = {
            "dtype": tag,
            "shape": list(shapes[name]),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
