"""The formats that examples come in: records out of files, each with its place, none skipped."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gesso.finetune.instructions.config import SourceConfig
from gesso.finetune.instructions.fields import Record
from gesso.settings.nearest import did_you_mean

HEAD = 200  # characters of a refused record that are kept


class Item(NamedTuple):
    """A record, or (reason, detail) where there is none. task: its own task's name, or ""."""

    place: str
    record: Record | tuple[str, str]
    head: str
    task: str = ""


def items_of(source: SourceConfig) -> Iterator[Item]:
    """The records of a source, renamed to the fields of the format's family where it has one.

    Raises ValueError for a file that is missing, empty or no file of this format at all.
    """
    if source.format == "tfds":
        yield from _tfds(source.path)
        return
    path = existing(source.path)
    if source.format in ("tsv", "csv"):
        yield from table(path, source.format)
    elif source.format == "natural_instructions":
        yield from _natural(path)
    else:
        for item in _json_items(path):
            if isinstance(item.record, tuple):
                yield item
            elif source.format == "self_instruct":
                yield from _instances(item, item.record)
            elif source.format == "gsm8k":
                yield _solution(item, item.record)
            else:
                yield item


def existing(path: str) -> Path:
    """The path of a source. Raises ValueError where nothing is, with the nearest name beside it."""
    place = Path(path).expanduser()
    if not place.exists():
        beside = [each.name for each in place.parent.iterdir()] if place.parent.is_dir() else []
        raise ValueError(f"there is no file {place}{did_you_mean(place.name, beside)}")
    return place


def read_text(path: Path) -> bytes:
    """A file's bytes, decompressed where its name says so. Raises ValueError for a broken one."""
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.suffix == ".zst":
            import pyarrow

            with pyarrow.CompressedInputStream(str(path), "zstd") as stream:
                return stream.read()
        return path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def lines(path: Path) -> Iterator[tuple[int, str | tuple[str, str], str]]:
    """(number from 1, text or (reason, detail), head) of each line. ValueError for an empty one."""
    content = read_text(path)
    if not content:
        raise ValueError(f"{path}: the file is empty")
    raw_lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not raw_lines[-1]:
        raw_lines.pop()
    for number, raw in enumerate(raw_lines, 1):
        head = raw[:HEAD].decode("utf-8", "replace")
        try:
            text: str | tuple[str, str] = raw.decode().removesuffix("\r")
            if not text.strip():
                text = ("blank_line", "")
        except UnicodeDecodeError as error:
            text = ("invalid_utf8", str(error))
        yield number, text, head


def _json_items(path: Path) -> Iterator[Item]:
    content = read_text(path)
    if content.lstrip()[:1] == b"[":
        for number, record in enumerate(_whole_json(path, content), 1):
            yield _item(f"{path}, item {number}", record, str(record)[:HEAD])
        return
    for number, text, head in lines(path):
        place = f"{path}:{number}"
        if isinstance(text, tuple):
            yield Item(place, text, head)
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            yield Item(place, ("bad_json", str(error)), head)
            continue
        yield _item(place, record, head)


def _item(place: str, record: Any, head: str) -> Item:
    if isinstance(record, dict):
        return Item(place, record, head)
    return Item(place, ("not_an_object", type(record).__name__), head)


def _whole_json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:  # a JSON list cannot be read past its first error
        raise ValueError(f"{path}: not JSON: {error}") from None


def _instances(item: Item, record: Record) -> Iterator[Item]:
    # A seed task has one instruction and several instances; a lone instance may be its own record.
    instances = record.get("instances")
    if not isinstance(instances, list) or not instances:
        yield Item(item.place, ("missing_field", "no list of 'instances'"), item.head)
        return
    for number, each in enumerate(instances, 1):
        place = item.place if len(instances) == 1 else f"{item.place}, instance {number}"
        if isinstance(each, dict):
            yield Item(place, {"instruction": record.get("instruction"), **each}, item.head)
        else:
            yield Item(place, ("wrong_type", "an instance is not an object"), item.head)


def _solution(item: Item, record: Record) -> Item:
    # GSM8K: the way, with <<48/2=24>> beside its sums, then "####" and the result.
    answer = record.get("answer")
    if not isinstance(answer, str) or "####" not in answer:
        return item._replace(record=("missing_field", "no 'answer' with #### before its result"))
    rationale, _, reply = answer.rpartition("####")
    solved = {"rationale": re.sub(r"<<[^>]*>>", "", rationale).strip(), "reply": reply.strip()}
    return item._replace(record={**record, **solved})


def _natural(path: Path) -> Iterator[Item]:
    """Task files of Natural Instructions v2 {Definition, Positive Examples, Instances}, one or a
    folder of them; or FLAN's single file {task: {definition, positive_examples}}."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no .json files in it")
    for file in files:
        content = _whole_json(file, read_text(file))
        if not isinstance(content, dict):
            raise ValueError(f"{file}: no object of tasks")
        whole = "Definition" in content or "definition" in content
        for name, task in ({file.stem.split(".")[0]: content} if whole else content).items():
            yield from _natural_task(f"{file}, {name}", name, task)


def _natural_task(place: str, name: str, task: Any) -> Iterator[Item]:
    if not isinstance(task, dict):
        yield Item(place, ("not_an_object", type(task).__name__), str(task)[:HEAD], name)
        return
    keyed = {key.lower().replace(" ", "_"): value for key, value in task.items()}
    definition = keyed.get("definition")
    if isinstance(definition, list):
        definition = "\n".join(map(str, definition))
    found = 0
    for kind in ("positive_examples", "instances"):
        examples = keyed.get(kind) or []
        for number, each in enumerate([examples] if isinstance(examples, dict) else examples, 1):
            found += 1
            where = f"{place}: {kind} {number}"
            if not isinstance(each, dict):
                yield Item(
                    where, ("wrong_type", "an example is not an object"), str(each)[:HEAD], name
                )
                continue
            output = each.get("output")
            # Several right outputs are references to score against; the first one is learned.
            output = output[0] if isinstance(output, list) and output else output
            record = {"instruction": definition, "input": each.get("input"), "output": output}
            yield Item(where, record, str(each)[:HEAD], name)
    if not found:
        yield Item(place, ("missing_field", "no examples in this task"), str(task)[:HEAD], name)


def table(path: Path, kind: str, *, columns: tuple[str, ...] = ()) -> Iterator[Item]:
    """The rows of a "tsv" or "csv" by their columns' names: those of its first line, or `columns`
    of a file without such a line."""
    header = list(columns)
    for place, cells, head in _csv_rows(path) if kind == "csv" else _tab_rows(path):
        if isinstance(cells, tuple):
            yield Item(place, cells, head)
        elif not header:
            header = cells
            if len(set(header)) != len(header):
                raise ValueError(f"{place}: the header names a column twice: {', '.join(header)}")
        elif len(cells) != len(header):
            detail = f"{len(cells)} columns, the header has {len(header)}"
            yield Item(place, ("wrong_columns", detail), head)
        else:
            yield Item(place, dict(zip(header, cells, strict=True)), head)


def _tab_rows(path: Path) -> Iterator[tuple[str, list[str] | tuple[str, str], str]]:
    for number, text, head in lines(path):
        cells = text if isinstance(text, tuple) else text.split("\t")
        yield f"{path}:{number}", cells, head


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str] | tuple[str, str], str]]:
    try:
        text = read_text(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:  # quotes may span lines: no telling where records begin
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{place}: {error}") from None
        yield place, cells or ("blank_line", ""), ",".join(cells)[:HEAD]


def _tfds(path: str) -> Iterator[Item]:
    import tensorflow_datasets as tfds

    from gesso.data.text.tfds import resolve_tfds

    name, folder, split, _, _ = resolve_tfds(path)
    builder: Any = tfds.builder_from_directory(folder)
    try:
        examples: Any = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise ValueError(f"{path}: prepare it with file_format='array_record' ({error})") from None
    for number in range(len(examples)):
        record = {key: _plain(value) for key, value in examples[number].items()}
        yield Item(f"{name}:{split}, example {number}", record, str(record)[:HEAD])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
