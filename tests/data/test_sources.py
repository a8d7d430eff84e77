"""Every source format gives the same documents; what is not a source is refused by name."""

import hashlib
import struct
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from sample_corpus import documents, lines, small_build, texts_of, tree, write_jsonl, write_parquet

from gesso.data.open import open_store
from gesso.data.text.readers import open_reader, split_lines
from gesso.data.text.record import Cursor
from gesso.data.text.shards import SourceError, fallback_component
from gesso.data.text.sources import resolve

SETTINGS = {"text_key": "text", "component_key": "meta.pile_set_name", "limit": 1 << 20}


def counted(folder):
    found = texts_of(folder)
    return Counter((text, name) for (name, _), texts in found.items() for text in texts)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_documents_that_went_in(tmp_path, name):
    made = documents(60)
    path = tmp_path / name
    if name.endswith("parquet"):
        write_parquet(path, made, row_group_size=17)
    else:
        write_jsonl(path, lines(60))
    small_build(path, tmp_path / "store")
    assert counted(tmp_path / "store") == Counter(made)
    assert open_store(tmp_path / "store").verify() == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet", "line", "blank_line"])
def test_reading_on_from_any_cursor_gives_the_rest(tmp_path, name):
    split = "file"
    if name.endswith("parquet"):
        path = write_parquet(tmp_path / name, documents(40), row_group_size=7)
    elif name.startswith("a.jsonl"):
        path = write_jsonl(tmp_path / name, lines(40))
    else:
        split, path = name, tmp_path
        (tmp_path / "1.txt").write_text("one\ntwo\n\n\nthree\n\nfour")
        (tmp_path / "2.txt").write_text("\n\nfive\r\n\r\nsix\n")
    (shard,) = resolve([str(path)])
    everything = list(open_reader(shard, text_split=split, **SETTINGS).records(Cursor()))
    assert len(everything) >= 5
    for place, record in enumerate(everything):
        rest = list(open_reader(shard, text_split=split, **SETTINGS).records(record.end))
        assert rest == everything[place + 1 :]


@pytest.mark.parametrize(
    ("split", "want"),
    [
        ("file", ["one\ntwo\n\nthree", "four\n"]),
        ("blank_line", ["one\ntwo", "three", "four"]),
        ("line", ["one", "two", "three", "four"]),
    ],
)
def test_text_files_split_into_documents(tmp_path, split, want):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "1.txt").write_text("one\ntwo\n\nthree")
    (folder / "2.txt").write_text("four\n")
    small_build(folder, tmp_path / "store", text_split=split, holdout=0.0)
    assert texts_of(tmp_path / "store") == {("notes", "train"): want}
    blank = {"empty_text": 1} if split == "line" else {}
    assert open_store(tmp_path / "store").rejects() == blank


def test_lines_split_at_newlines_alone_and_across_blocks():
    content = "a\u2028b\r\n\n\x0bc\nlast".encode()
    whole = [raw for raw, *_ in split_lines(iter([content]), limit=99, start=0, crc32=0)]
    assert whole == content.split(b"\n")
    for size in range(1, len(content)):
        blocks = (content[at : at + size] for at in range(0, len(content), size))
        found = list(split_lines(blocks, limit=99, start=0, crc32=0))
        assert [line.raw for line in found] == whole
        assert found[-1].end == len(content)


def test_a_long_line_is_never_held():
    blocks = [b"x" * 1000] * 50 + [b"\nshort\n"]
    first, second = split_lines(iter(blocks), limit=2000, start=0, crc32=0)
    assert len(first.raw) == 200
    assert (first.length, first.end) == (50_000, 50_001)
    assert second.raw == b"short"


def test_several_frames_are_one_file(tmp_path):
    first, second = lines(30), lines(30, seed=1)
    parts = [zstandard.compress(b"\n".join(part) + b"\n") for part in (first, second)]
    (tmp_path / "two.jsonl.zst").write_bytes(b"".join(parts))
    small_build(tmp_path / "two.jsonl.zst", tmp_path / "store")
    assert counted(tmp_path / "store") == Counter(documents(30) + documents(30, seed=1))


def test_records_without_a_component_take_it_from_the_source(tmp_path):
    write_jsonl(tmp_path / "in" / "wiki-00001-of-00002.jsonl", [b'{"text": "a"}'])
    write_jsonl(tmp_path / "in" / "00.jsonl", [b'{"text": "b"}'])
    write_jsonl(tmp_path / "law.jsonl", lines(3))
    small_build([tmp_path / "in", f"Free Law={tmp_path / 'law.jsonl'}"], tmp_path / "store")
    assert open_store(tmp_path / "store").components == ("Free Law", "default", "wiki")


def test_fallback_names():
    names = {
        "wiki.jsonl.zst": "wiki",
        "03.jsonl": "default",
        "wikitext-103.txt": "wikitext-103",
        "c4-train.00001-of-00512.jsonl.gz": "c4-train",
        "notes_00001_of_00002.parquet": "notes",
    }
    assert {name: fallback_component(name) for name in names} == names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("corpsu/a.jsonl", r"neither does its folder"),
        ("corpus/aa.jsonl", r"did you mean .*a\.jsonl\?"),
        ("corpus/*.json", r"nothing matches .* holds a\.jsonl"),
        ("corpus/x.pdf", r"cannot tell its format; known: .*parquet"),
        ("empty", r"no file in it has a known format"),
        ("tfds:none_such", r"tfds:none_such: not prepared in"),
    ],
)
def test_a_wrong_source_is_refused_and_nothing_is_touched(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "datasets"))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", lines(2))
    (tmp_path / "corpus" / "x.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        small_build([source], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_same_file_twice_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", lines(2))
    with pytest.raises(SourceError, match="listed twice"):
        resolve([str(path), str(tmp_path / "*.jsonl")])


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden/d.jsonl", "README.md"):
        write_jsonl(tmp_path / name, [b'{"text": "x"}'])
    assert [shard.name for shard in resolve([str(tmp_path)])] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_parquet_nulls_and_bad_utf8_are_quarantined(tmp_path):
    texts = pa.array([b"good", None, b"\xff", b""], pa.binary())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    small_build(tmp_path / "a.parquet", tmp_path / "store", holdout=0.0, reject_cap=1.0)
    assert texts_of(tmp_path / "store") == {("a", "train"): ["good"]}
    want = {"empty_text": 1, "invalid_utf8": 1, "missing_key": 1}
    assert open_store(tmp_path / "store").rejects() == want


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("body", r"no column 'text'; it has body"),
        ("text", r"of type int64, not text; set text_key"),
    ],
)
def test_parquet_without_the_text_column_is_refused(tmp_path, column, message):
    pq.write_table(pa.table({column: [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        small_build(tmp_path / "a.parquet", tmp_path / "store")


def test_truncated_parquet_is_an_error(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", documents(30))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"a\.parquet: truncated, damaged or not parquet"):
        small_build(path, tmp_path / "store")


def test_a_moved_corpus_is_the_same_corpus(tmp_path):
    for place in ("here", "there"):
        write_jsonl(tmp_path / place / "a.jsonl.zst", lines(40))
        small_build(tmp_path / place, tmp_path / f"store-{place}")
    assert tree(tmp_path / "store-here") == tree(tmp_path / "store-there")


def test_checksums_find_a_flipped_bit(tmp_path):
    """zstd frames without a checksum decompress damaged bytes silently; the list finds them."""
    path = write_jsonl(tmp_path / "a.jsonl.zst", lines(40))
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    small_build(path, tmp_path / "good", checksums=str(sums))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match=r"a\.jsonl\.zst: sha256 is .* copy it again"):
        small_build(path, tmp_path / "bad", checksums=str(sums))
    sums.write_text("")
    with pytest.raises(SourceError, match="not in the list of checksums"):
        small_build(path, tmp_path / "bad", checksums=str(sums))


def test_a_window_too_large_names_the_remedy(tmp_path):
    # A frame header asking for a 1 GiB window: magic, no flags, exponent 20, then one raw block.
    header = struct.pack("<IBB", 0xFD2FB528, 0, (30 - 10) << 3)
    block = struct.pack("<I", 1 | (2 << 3))[:3] + b"{}"
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(header + block)
    with pytest.raises(
        SourceError, match=r"after decompressed byte 0: compressed with a window .*zstd --long=27"
    ):
        small_build(path, tmp_path / "store")


@pytest.mark.parametrize("pattern", ["in", "in/*.gz", "in/1.jsonl"])
def test_remote_paths_are_read_like_local_ones(tmp_path, monkeypatch, pattern):
    """No network here: local paths sent down the way of remote ones."""
    for name in ("in/1.jsonl", "in/2.jsonl.gz", "in/sub/3.jsonl.zst"):
        write_jsonl(tmp_path / name, lines(20, seed=len(name)))
    small_build(tmp_path / pattern, tmp_path / "local")
    for module in ("shards", "sources", "readers"):
        monkeypatch.setattr(f"gesso.data.text.{module}.is_remote", lambda path: True)
    small_build(tmp_path / pattern, tmp_path / "remote")
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")
    with pytest.raises(SourceError, match=r"\*\* is for local paths"):
        resolve([str(tmp_path / "**/*.jsonl")])
    with pytest.raises(SourceError, match=r"did you mean .*in\?"):
        resolve([str(tmp_path / "inn")])
