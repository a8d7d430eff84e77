"""Bad input to a build: every record is accounted for, every damage has a name and a place."""

import json
import re
import time
from collections import Counter

import pytest
import zstandard
from sample_corpus import (
    BAD_LINES,
    BAD_REASONS,
    committed,
    documents,
    lines,
    small_build,
    tree,
    write_jsonl,
)

from gesso.data.open import open_store
from gesso.data.store import build as building
from gesso.data.store.errors import BuildFailed
from gesso.data.store.parts import part_tokens, slug
from gesso.data.text import readers
from gesso.data.text.rejects import BuildError
from gesso.data.text.shards import SourceError
from gesso.data.tokenizers.bytes import BytesTokenizer


def bad_corpus(path):
    good = lines(4)
    mixed = [good[0], *BAD_LINES[:5], good[1], *BAD_LINES[5:], good[2], good[3]]
    return write_jsonl(path, mixed)


def write_frames(path, records, *, per_block=10):
    """One zstd frame in many blocks, so that a cut file still gives its first records."""
    packer = zstandard.ZstdCompressor().compressobj()
    out = []
    for at in range(0, len(records), per_block):
        out.append(packer.compress(b"".join(x + b"\n" for x in records[at : at + per_block])))
        out.append(packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    path.write_bytes(b"".join([*out, packer.flush()]))
    return path


def test_thirteen_lines_are_four_documents_and_nine_rejects(tmp_path):
    path = bad_corpus(tmp_path / "x.jsonl.zst")
    report = small_build(path, tmp_path / "store", reject_cap=1.0)
    assert report.sum("documents") == 4
    assert report.rejects == dict(sorted(Counter(BAD_REASONS).items()))
    kept = (tmp_path / "store" / "s00000" / "p00000.rejects.jsonl").read_text().split("\n")[:-1]
    rejects = [json.loads(line) for line in kept]
    assert [reject["reason"] for reject in rejects] == list(BAD_REASONS)
    assert [reject["line"] for reject in rejects] == [2, 3, 4, 5, 6, 8, 9, 10, 11]
    content = zstandard.decompress(path.read_bytes())
    for reject, raw in zip(rejects, BAD_LINES, strict=True):
        head = reject["head"].encode() if b"\xff" not in raw else raw
        assert content[reject["byte"] :].startswith(head)


def test_records_in_are_documents_and_rejects_in_every_part(tmp_path):
    records = lines(120)
    for place in range(0, 120, 7):
        records[place] = BAD_LINES[place % len(BAD_LINES)]
    small_build(write_jsonl(tmp_path / "x.jsonl", records), tmp_path / "store", reject_cap=1.0)
    parts = committed(tmp_path / "store")
    assert len(parts) > 3
    for part in parts:
        splits = [counts for c in part["components"].values() for counts in c.values()]
        made = sum(counts["documents"] for counts in splits if isinstance(counts, dict))
        assert part["records"] == made + sum(part["rejects"].values())
    assert sum(part["records"] for part in parts) == 120


def test_on_bad_input_error_names_the_line(tmp_path):
    path = bad_corpus(tmp_path / "x.jsonl.zst")
    message = r"x\.jsonl\.zst:2: bad_json: Expecting property name"
    with pytest.raises(BuildError, match=message):
        small_build(path, tmp_path / "store", on_bad_input="error", reject_cap=1.0)


def test_blank_records_are_no_error(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [*lines(5), b"", b'{"text": ""}'])
    report = small_build(path, tmp_path / "store", on_bad_input="error", reject_cap=0.0)
    assert report.rejects == {"blank_record": 1, "empty_text": 1}


def test_the_cap_stops_and_raising_it_continues(tmp_path):
    records = lines(200)
    records[150:153] = [b"{bad"] * 3
    path = write_jsonl(tmp_path / "x.jsonl", records)
    message = r"x\.jsonl: 3 of 200 records are bad \(1\.5%\).*x\.jsonl:151: bad_json"
    with pytest.raises(BuildError, match=message):
        small_build(path, tmp_path / "store")
    half = tree(tmp_path / "store")
    assert any(name.endswith("p00003.json") for name in half)
    small_build(path, tmp_path / "store", reject_cap=0.02)
    small_build(path, tmp_path / "clean", reject_cap=0.02)
    assert tree(tmp_path / "store") == tree(tmp_path / "clean")


def test_a_hopeless_shard_is_given_up_early(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [b"{bad"] * 25_000)
    with pytest.raises(BuildError, match=r"10,000 of 10,000 records are bad"):
        small_build(path, tmp_path / "store")


def test_long_documents_are_quarantined_or_kept(tmp_path):
    # 22 MB in one line, as met in crawls.
    long = json.dumps({"text": "word " * 4_400_000}).encode()
    path = write_jsonl(tmp_path / "x.jsonl", [b'{"text": "a"}', long, b'{"text": "b"}'])
    kept = small_build(path, tmp_path / "kept", holdout=0.0)
    assert kept.sum("bytes") == 22_000_002
    cut = small_build(
        path, tmp_path / "cut", holdout=0.0, max_document_bytes=1 << 20, reject_cap=1.0
    )
    assert (cut.sum("bytes"), cut.rejects) == (2, {"oversize": 1})


@pytest.mark.parametrize("suffix", ["zst", "gz"])
@pytest.mark.parametrize("left", [0, 3, 0.5, -10, -1])
def test_a_truncated_source_never_ends_quietly(tmp_path, suffix, left):
    path = write_jsonl(tmp_path / f"x.jsonl.{suffix}", lines(300))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left) if isinstance(left, float) else left])
    with pytest.raises(SourceError, match=rf"x\.jsonl\.{suffix}: .*copy it again"):
        small_build(path, tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_truncation_keeps_earlier_parts_and_repair_equals_a_clean_build(
    tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(building, "BATCH_RECORDS", 7)
    monkeypatch.setattr(readers, "BLOCK", 1 << 10)
    path = write_frames(tmp_path / "x.jsonl.zst", lines(300))
    small_build(path, tmp_path / "clean")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    folder = tmp_path / "store"
    with pytest.raises(SourceError) as error:
        small_build(path, folder, workers=workers)
    place = r"x\.jsonl\.zst: after decompressed byte ([\d,]+): the file is truncated"
    found = re.search(place, str(error.value))
    assert found
    reached = int(found[1].replace(",", ""))
    # Every part that the readable records fill is committed, whatever was under way.
    done = committed(folder)
    assert len(done) >= 2
    limit = part_tokens(len(done), first=2000, cap=8000)
    assert 0 <= reached - done[-1]["end"]["byte"] < 3 * limit
    store = open_store(folder)
    before = store.fingerprint
    started = time.monotonic()
    assert store.era(0) is not None
    with pytest.raises(BuildFailed, match="truncated"):
        store.era(len(done), wait_seconds=60)
    assert time.monotonic() - started < 30
    path.write_bytes(whole)
    small_build(path, folder, workers=workers)
    assert tree(folder) == tree(tmp_path / "clean")
    assert open_store(folder).earlier_fingerprints == (before,)
    assert open_store(folder).error() == ""


def test_a_repair_that_changes_what_is_committed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK", 1 << 10)
    path = write_frames(tmp_path / "x.jsonl.zst", lines(300))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="truncated"):
        small_build(path, tmp_path / "store")
    write_frames(path, lines(320, seed=1))
    with pytest.raises(
        SourceError, match=r"x\.jsonl\.zst: what comes before record [\d,]+ is not what"
    ):
        small_build(path, tmp_path / "store")


@pytest.mark.parametrize("names", [("Books 3", "books-3"), ("A.B", "a b")])
def test_components_that_would_share_a_file_are_refused(tmp_path, names):
    records = [json.dumps({"text": "x", "meta": {"pile_set_name": n}}).encode() for n in names]
    with pytest.raises(BuildError, match=rf"x\.jsonl:2: the components .*{slug(names[0])}"):
        small_build(write_jsonl(tmp_path / "x.jsonl", records), tmp_path / "store")
    write_jsonl(tmp_path / "in" / "1.jsonl", records[:1])
    write_jsonl(tmp_path / "in" / "2.jsonl", records[1:])
    with pytest.raises(BuildError, match=r"2\.jsonl:1: the components"):
        small_build(tmp_path / "in", tmp_path / "apart")


def test_a_key_that_is_no_component_key_is_refused(tmp_path):
    records = [json.dumps({"text": "x", "url": f"http://a/{n}"}).encode() for n in range(1100)]
    path = write_jsonl(tmp_path / "x.jsonl", records)
    one_part = {"part_tokens_first": 1 << 20, "part_tokens_cap": 1 << 20}
    with pytest.raises(BuildError, match="does component_key name the right key"):
        small_build(path, tmp_path / "store", component_key="url", **one_part)


def test_a_text_the_tokenizer_refuses_is_quarantined(tmp_path):
    class Picky(BytesTokenizer):
        def encode(self, text):
            if "γάμμα" in text:
                raise RuntimeError("no Greek")
            return super().encode(text)

    made = documents(30)
    path = write_jsonl(tmp_path / "x.jsonl", lines(30))
    report = small_build(path, tmp_path / "store", tokenizer=Picky(), reject_cap=1.0)
    greek = sum("γάμμα" in text for text, _ in made)
    assert 0 < greek < 30
    assert report.rejects == {"not_encodable": greek}


@pytest.mark.parametrize("split", ["file", "blank_line"])
@pytest.mark.parametrize("change", ["nothing", "later file", "earlier file"])
def test_text_files_changed_under_a_half_built_store_are_found(tmp_path, split, change):
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(f"{number} " + "word " * 60 + "\n\n\n")

    def stop(where):
        if where.startswith("written p00003"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_build(folder, tmp_path / "store", text_split=split, step=stop)
    assert len(committed(tmp_path / "store")) == 3
    if change != "nothing":
        name = "29.txt" if change == "later file" else "00.txt"
        (folder / name).write_text("another text of another size")
    if change == "earlier file":
        with pytest.raises(SourceError, match="notes: what comes before record"):
            small_build(folder, tmp_path / "store", text_split=split)
        return
    small_build(folder, tmp_path / "store", text_split=split)
    small_build(folder, tmp_path / "clean", text_split=split)
    assert tree(tmp_path / "store") == tree(tmp_path / "clean")
