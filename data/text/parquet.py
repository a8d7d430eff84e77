"""Parquet files as records: one per row of a text column, by row group."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from gesso.data.text.record import Cursor, Record
from gesso.data.text.rejects import HEAD_BYTES
from gesso.data.text.shards import Shard, SourceError

# Rows decoded at a time: large enough to be quick, small enough that long texts stay few.
ROWS = 256


class Table:
    """One record per row. A column name with dots goes into structs."""

    def __init__(self, shard: Shard, *, text_key: str, component_key: str, limit: int) -> None:
        self.shard = shard
        self.text_key = text_key
        self.component_key = "" if shard.component else component_key
        self.limit = limit
        self._row, self._rows = 0, 1

    def records(self, cursor: Cursor) -> Iterator[Record]:
        path = self.shard.files[0]
        with epath.Path(path).open("rb") as file:
            try:
                table = pq.ParquetFile(pa.PythonFile(file, mode="r"))
            except (pa.ArrowException, OSError) as error:
                raise SourceError(
                    f"{path}: truncated, damaged or not parquet ({error}); copy it again"
                ) from None
            self._check_columns(path, table.schema_arrow)
            self._rows, self._row = max(1, table.metadata.num_rows), cursor.record
            group, skip = _locate(table.metadata, cursor.record)
            groups = list(range(group, table.num_row_groups))
            try:
                for batch in table.iter_batches(ROWS, row_groups=groups, columns=self._columns()):
                    taken = min(skip, batch.num_rows)
                    skip -= taken
                    yield from self._batch(batch.slice(taken))
            except (pa.ArrowException, OSError) as error:
                raise SourceError(
                    f"{path}: after row {self._row:,}: damaged ({error}); copy it again"
                ) from None

    def fraction(self) -> float:
        return self._row / self._rows

    def _batch(self, batch: pa.RecordBatch) -> Iterator[Record]:
        # As bytes: Arrow does not check that strings are UTF-8; documents.py does.
        texts = _column(batch, self.text_key).cast(pa.large_binary()).to_pylist()
        components: list[Any] = [None] * len(texts)
        if self._has_component(batch.schema):
            components = _column(batch, self.component_key).cast(pa.large_binary()).to_pylist()
        for text, component in zip(texts, components, strict=True):
            self._row += 1
            length = len(text or b"")
            raw = text if text is None or length <= self.limit else text[:HEAD_BYTES]
            name = self.shard.component or (component or b"").decode("utf-8", "replace")
            yield Record(Cursor(0, 0, self._row, 0), raw, length, name)

    def _columns(self) -> list[str]:
        return [key for key in (self.text_key, self.component_key) if key]

    def _has_component(self, schema: pa.Schema) -> bool:
        return bool(self.component_key) and _type(schema, self.component_key) is not None

    def _check_columns(self, path: str, schema: pa.Schema) -> None:
        found = _type(schema, self.text_key)
        if found is None:
            raise SourceError(
                f"{path}: no column {self.text_key!r}; it has {', '.join(schema.names)}: "
                "set text_key"
            )
        kinds = {"text_key": self.text_key}
        if self._has_component(schema):
            kinds["component_key"] = self.component_key
        for name, key in kinds.items():
            if not _is_text(_type(schema, key)):
                raise SourceError(
                    f"{path}: column {key!r} is of type {_type(schema, key)}, not text; set {name}"
                )


def _locate(metadata: Any, row: int) -> tuple[int, int]:
    """(row group, rows to skip in it) of a row."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < rows:
            return group, row
        row -= rows
    return metadata.num_row_groups, 0


def _type(schema: pa.Schema, key: str) -> pa.DataType | None:
    if key in schema.names:
        return schema.field(key).type
    first, *rest = key.split(".")
    if first not in schema.names:
        return None
    found = schema.field(first).type
    for name in rest:
        if not pa.types.is_struct(found) or found.get_field_index(name) < 0:
            return None
        found = found.field(name).type
    return found


def _is_text(kind: pa.DataType | None) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind is not None and any(test(kind) for test in tests)


def _column(batch: pa.RecordBatch, key: str) -> pa.Array:
    if key in batch.schema.names:
        array = batch.column(key)
    else:
        first, *rest = key.split(".")
        array = batch.column(first)
        for name in rest:
            array = _field(array, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _field(array: pa.Array, name: str) -> pa.Array:
    """A struct's field, null where the struct is."""
    index = array.type.get_field_index(name)
    return array.flatten()[index]
