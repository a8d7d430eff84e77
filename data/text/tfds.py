"""tensorflow-datasets as a source, without TensorFlow: array_record and tfrecord files."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

from etils import epath

from gesso.data.text.record import Cursor, Record
from gesso.data.text.rejects import HEAD_BYTES
from gesso.data.text.shards import Shard, SourceError, missing
from gesso.settings.nearest import did_you_mean

# Examples decoded at a time; as_data_source reads a list of indices faster than one by one.
EXAMPLES = 64


def resolve_tfds(source: str) -> tuple[str, str, str, int, str]:
    """(name, folder, split, bytes, digest) of `tfds:NAME[/CONFIG][:SPLIT]`, `tfds:FOLDER[:SPLIT]`.

    NAME is looked up where tensorflow-datasets keeps its own (TFDS_DATA_DIR or
    ~/tensorflow_datasets); the split is "train" by default and may be a slice, `train[10%:20%]`.
    Raises SourceError for an unknown or unprepared dataset, split or file format.
    """
    name, split = _parse(source)
    builder = _builder(source, name)
    info = builder.info
    if split.split("[")[0] not in info.splits:
        hint = did_you_mean(split, info.splits)
        raise SourceError(f"{source}: no split {split!r} (it has {', '.join(info.splits)}){hint}")
    try:
        found = info.splits[split]
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from None
    kind = _file_format(builder)
    if kind not in ("array_record", "tfrecord"):
        # TFDS 4.9.10 drops most examples while writing parquet; see docs/token_store.md.
        raise SourceError(
            f"{source}: was written as {kind}, which is not read here (tensorflow-datasets loses "
            "examples when it writes parquet); prepare it with file_format='array_record'"
        )
    size = int(info.splits[split.split("[")[0]].num_bytes)
    record = {"examples": int(found.num_examples), "bytes": size, "version": str(info.version)}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return f"tfds:{info.full_name}", os.fspath(builder.data_path), split, size, digest


class Examples:
    """One record per example of a split."""

    def __init__(self, shard: Shard, *, text_key: str, component_key: str, limit: int) -> None:
        self.shard = shard
        self.text_key = text_key
        self.component_key = "" if shard.component else component_key
        self.limit = limit
        self._at, self._examples = 0, 1

    def records(self, cursor: Cursor) -> Iterator[Record]:
        builder = _builder(self.shard.name, self.shard.files[0])
        info = builder.info.splits[self.shard.split]
        self._examples, self._at = max(1, info.num_examples), cursor.record
        self._check_features(builder.info.features)
        read = _array_records if _file_format(builder) == "array_record" else _tfrecord_examples
        try:
            for example in read(self.shard, builder, cursor.record):
                yield self._record(example)
        except RuntimeError as error:  # array_record's reader
            raise SourceError(
                f"{self.shard.files[0]}: after example {self._at:,}: damaged or truncated ({error})"
            ) from None
        if self._at != info.num_examples:
            raise SourceError(_short(self.shard, found=self._at, want=info.num_examples))

    def fraction(self) -> float:
        return self._at / self._examples

    def _record(self, example: Any) -> Record:
        self._at += 1
        text = _bytes(_dig(example, self.text_key))
        component = self.shard.component
        if self.component_key:
            component = _bytes(_dig(example, self.component_key) or b"").decode("utf-8", "replace")
        raw = text if len(text) <= self.limit else text[:HEAD_BYTES]
        return Record(Cursor(0, 0, self._at, 0), raw, len(text), component)

    def _check_features(self, features: Any) -> None:
        names = list(features.keys()) if hasattr(features, "keys") else []
        if self.text_key.split(".")[0] not in names:
            raise SourceError(
                f"{self.shard.name}: no feature {self.text_key!r}; it has {', '.join(names)}: "
                "set text_key"
            )


def _array_records(shard: Shard, builder: Any, start: int) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordReader

    # len(source) repeats the dataset's own record; only the files know what they hold.
    whole = builder.info.splits[shard.split.split("[")[0]]
    held = 0
    for path in whole.filepaths:
        reader = ArrayRecordReader(str(path))
        held += reader.num_records()
        reader.close()
    if held != whole.num_examples:
        raise SourceError(_short(shard, found=held, want=whole.num_examples))
    source = builder.as_data_source(split=shard.split)
    want = builder.info.splits[shard.split].num_examples
    if len(source) != want:
        raise SourceError(_short(shard, found=len(source), want=want))
    for first in range(start, want, EXAMPLES):
        yield from source.__getitems__(list(range(first, min(first + EXAMPLES, want))))


def _tfrecord_examples(shard: Shard, builder: Any, start: int) -> Iterator[Any]:
    features = builder.info.features
    seen = 0
    for part in builder.info.splits[shard.split].file_instructions:
        taken = part.examples_in_shard if part.take == -1 else part.take
        whole = part.skip == 0 and taken == part.examples_in_shard
        if seen + taken <= start:
            seen += taken
            continue
        got = 0
        for position, payload in enumerate(tfrecords(part.filename)):
            if position < part.skip:
                continue
            if got == taken and not whole:
                break
            got += 1
            if start < seen + got <= seen + taken:
                yield features.deserialize_example_np(payload)
        if got != taken:
            raise SourceError(_short(shard, found=seen + got, want=seen + taken))
        seen += taken


def tfrecords(path: str) -> Iterator[bytes]:
    """The payloads of a tfrecord file: u64 length, its crc, the bytes, their crc; little-endian.

    Raises SourceError, with the byte, where the file is cut or a checksum is wrong.
    """
    with epath.Path(path).open("rb") as file:
        at = 0
        while head := file.read(12):
            if len(head) < 12:
                raise SourceError(f"{path}: truncated in a record's head at byte {at:,}")
            length, head_crc = struct.unpack("<QI", head)
            if tfrecord_crc(head[:8]) != head_crc:
                raise SourceError(f"{path}: damaged record length at byte {at:,}")
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise SourceError(f"{path}: truncated in the record at byte {at:,}")
            if tfrecord_crc(body[:length]) != struct.unpack("<I", body[length:])[0]:
                raise SourceError(f"{path}: damaged record at byte {at:,} (checksum)")
            yield body[:length]
            at += 16 + length


def tfrecord_crc(content: bytes) -> int:
    """The crc32c of the tfrecord format: rotated right by 15 bits, plus a constant."""
    import google_crc32c

    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _parse(source: str) -> tuple[str, str]:
    rest = source.removeprefix("tfds:")
    scheme, mark, path = rest.rpartition("://")
    name, _, split = path.partition(":")
    return scheme + mark + name, split or "train"


def _builder(source: str, name: str) -> Any:
    if name.startswith(("/", ".", "~")) or "://" in name:
        return _builder_in(source, os.fspath(epath.Path(name).expanduser()))
    data = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if (data / name).exists():
        return _builder_in(source, os.fspath(data / name))
    held = sorted(entry.name for entry in data.iterdir()) if data.exists() else []
    hint = did_you_mean(name, held, show=lambda near: f"tfds:{near}")
    raise SourceError(
        f"{source}: not prepared in {data} (prepare it with file_format='array_record', set"
        f" TFDS_DATA_DIR to another folder, or give tfds:FOLDER){hint}"
    )


def _builder_in(source: str, folder: str) -> Any:
    """The builder of a prepared folder, or of the newest version (and only config) below it."""
    import tensorflow_datasets as tfds

    if not epath.Path(folder).exists():
        raise missing(folder)
    place = epath.Path(folder)
    while not (place / "dataset_info.json").exists():
        below = sorted(
            (entry for entry in place.iterdir() if entry.is_dir() and _is_prepared(entry)),
            key=lambda entry: [int(n) if n.isdigit() else -1 for n in entry.name.split(".")],
        )
        versions = [entry for entry in below if entry.name.replace(".", "").isdigit()]
        if not below:
            raise SourceError(
                f"{source}: {folder} holds no prepared dataset (no dataset_info.json); an "
                "interrupted preparation leaves incomplete.* and starts from zero"
            )
        if len(below) > 1 and not versions:
            names = ", ".join(entry.name for entry in below)
            raise SourceError(f"{source}: has several configs, name one of {names}")
        place = (versions or below)[-1]
    return tfds.builder_from_directory(os.fspath(place))


def _is_prepared(folder: epath.Path) -> bool:
    if folder.name.startswith("incomplete."):
        return False
    return (folder / "dataset_info.json").exists() or any(
        entry.is_dir() and _is_prepared(entry) for entry in folder.iterdir()
    )


def _file_format(builder: Any) -> str:
    return builder.info.file_format.value


def _short(shard: Shard, *, found: int, want: int) -> str:
    return (
        f"{shard.name}: {found:,} examples in its files, but its record promises {want:,}; "
        "prepare it again with file_format='array_record'"
    )


def _dig(example: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(example, dict) or name not in example:
            return None
        example = example[name]
    return example


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
