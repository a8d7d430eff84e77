"""The builder: bad input is accounted for, settings are held to, workers change nothing."""

import json
import os
import re
import socket
import time
from collections import Counter

import pytest
import zstandard
from sample_corpus import (
    BAD_LINES,
    BAD_REASONS,
    documents,
    lines,
    small_build,
    texts_of,
    tree,
    write_jsonl,
)

import data.build
import data.readers
from data.config import BuildConfig
from data.documents import Batch, DocumentRules, count_words
from data.locks import ShardLocked
from data.parts import part_tokens, slug
from data.rejects import BuildError
from data.sources import SourceError
from data.store import BuildFailed, open_store
from data.tokenizer import BytesTokenizer, save_tokenizer
from data.workers import Pool


def committed(folder):
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("s*/p*.json"))]


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
    monkeypatch.setattr(data.build, "BATCH_RECORDS", 7)
    monkeypatch.setattr(data.readers, "BLOCK", 1 << 10)
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
    assert time.monotonic() - started < 5
    path.write_bytes(whole)
    small_build(path, folder, workers=workers)
    assert tree(folder) == tree(tmp_path / "clean")
    assert open_store(folder).earlier_fingerprints == (before,)
    assert open_store(folder).error() == ""


def test_a_repair_that_changes_what_is_committed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data.readers, "BLOCK", 1 << 10)
    path = write_frames(tmp_path / "x.jsonl.zst", lines(300))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="truncated"):
        small_build(path, tmp_path / "store")
    write_frames(path, lines(320, seed=1))
    with pytest.raises(SourceError, match="are not the ones that the committed parts"):
        small_build(path, tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text_key": "body"}, "text_key"),
        ({"component_key": ""}, "component_key"),
        ({"holdout": 0.1}, "holdout"),
        ({"part_tokens_cap": 9000}, "part_tokens_cap"),
        ({"part_tokens_first": 1000}, "part_tokens_first"),
        ({"on_bad_input": "error"}, "on_bad_input"),
        ({"max_document_bytes": 1 << 20}, "max_document_bytes"),
        ({"text_split": "line"}, "text_split"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, field):
    path = write_jsonl(tmp_path / "x.jsonl", lines(20))
    small_build(path, tmp_path / "store")
    before = tree(tmp_path / "store")
    with pytest.raises(BuildError, match=f"was built with {field} .* not "):
        small_build(path, tmp_path / "store", **change)
    assert tree(tmp_path / "store") == before


def test_another_tokenizer_and_other_sources_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(20))
    small_build(path, tmp_path / "store")
    other = BytesTokenizer()
    other.fingerprint = "0" * 64
    with pytest.raises(BuildError, match="was built with tokenizer "):
        small_build(path, tmp_path / "store", tokenizer=other)
    with pytest.raises(BuildError, match=r"from other sources: x\.jsonl, not y\.jsonl"):
        small_build(write_jsonl(tmp_path / "y.jsonl", lines(9)), tmp_path / "store")
    with pytest.raises(BuildError, match=r"shards: x\.jsonl of size \d+, now \d+"):
        small_build(write_jsonl(path, lines(21)), tmp_path / "store")


def test_a_folder_of_something_else_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "in" / "x.jsonl", lines(2))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(BuildError, match=r"holds chapter\.tex and no token store"):
        small_build(path, tmp_path / "thesis")
    assert len(list((tmp_path / "thesis").iterdir())) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"holdout": 1.0}, "holdout"),
        ({"workers": 0}, "workers"),
        ({"share": (2, 2)}, "share"),
        ({"part_tokens_first": 10, "part_tokens_cap": 5}, "part_tokens_first"),
        ({"text_split": "word"}, "none of file, blank_line, line"),
    ],
)
def test_wrong_settings_are_refused_first(tmp_path, fields, message):
    path = write_jsonl(tmp_path / "x.jsonl", lines(2))
    with pytest.raises(BuildError, match=message):
        small_build(path, tmp_path / "store", **fields)
    assert not (tmp_path / "store").exists()


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


def test_the_bytes_do_not_depend_on_workers_or_batches(tmp_path, monkeypatch):
    for shard in range(3):
        write_jsonl(tmp_path / "in" / f"{shard}.jsonl", lines(80, seed=shard))
    small_build(tmp_path / "in", tmp_path / "reference")
    want = tree(tmp_path / "reference")
    assert sum(name.endswith(".json") for name in want) > 10
    for workers, records in ((1, 1), (1, 13), (2, 5), (3, 2)):
        monkeypatch.setattr(data.build, "BATCH_RECORDS", records)
        folder = tmp_path / f"{workers}-{records}"
        small_build(tmp_path / "in", folder, workers=workers)
        assert tree(folder) == want


def test_closing_sources_between_parts_changes_nothing(tmp_path, monkeypatch):
    for shard in range(3):
        write_jsonl(tmp_path / "in" / f"{shard}.jsonl.gz", lines(80, seed=shard))
    small_build(tmp_path / "in", tmp_path / "reference")
    monkeypatch.setattr(data.build, "OPEN_SHARDS", 1)
    small_build(tmp_path / "in", tmp_path / "store")
    assert tree(tmp_path / "store") == tree(tmp_path / "reference")


def test_builders_share_the_shards(tmp_path):
    for shard in range(3):
        write_jsonl(tmp_path / "in" / f"{shard}.jsonl", lines(40, seed=shard))
    small_build(tmp_path / "in", tmp_path / "reference")
    first = small_build(tmp_path / "in", tmp_path / "store", share=(1, 2))
    assert not first.complete
    assert small_build(tmp_path / "in", tmp_path / "store", share=(0, 2)).complete
    assert tree(tmp_path / "store") == tree(tmp_path / "reference")


def test_a_second_writer_is_told_who_builds(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(40))
    asked = []

    def step(where):
        if not asked:
            asked.append(where)
            with pytest.raises(ShardLocked) as error:
                small_build(path, tmp_path / "store")
            asked.append(str(error.value))

    # Steps of the folder's own record come before the locks: continue a store instead.
    small_build(path, tmp_path / "store")
    (tmp_path / "store" / "s00000" / "p00001.json").unlink()
    small_build(path, tmp_path / "store", step=step)
    want = f"process {os.getpid()} on host {socket.gethostname()}"
    assert want in asked[1] and "shard 0 (x.jsonl)" in asked[1]
    assert not (tmp_path / "store" / "locks").exists()


def test_twins_fall_on_one_side_and_are_counted(tmp_path):
    made = documents(200)
    twins = [(text, "Github") for text, _ in made[:50]]
    records = [
        json.dumps({"text": text, "meta": {"pile_set_name": name}}).encode()
        for text, name in made + twins
    ]
    path = write_jsonl(tmp_path / "x.jsonl", records)
    report = small_build(path, tmp_path / "store", holdout=0.3)
    sides = {"train": set(), "holdout": set()}
    for (_, split), texts in texts_of(tmp_path / "store").items():
        sides[split].update(texts)
    assert not sides["train"] & sides["holdout"]
    assert 0.2 < len(sides["holdout"]) / 199 < 0.4
    # documents() has one twin of its own.
    assert report.duplicates == pytest.approx(51 / 250)


def test_no_holdout_keeps_everything_for_training(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(50))
    report = small_build(path, tmp_path / "store", holdout=0.0)
    assert report.sum("documents", split="train") == 50


def test_a_finished_build_is_left_alone(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(30))
    small_build(path, tmp_path / "store")
    before = tree(tmp_path / "store")
    steps = []
    report = small_build(path, tmp_path / "store", step=steps.append)
    assert report.complete and steps == []
    assert tree(tmp_path / "store") == before


def test_an_empty_file_is_an_empty_shard(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"")
    report = small_build(tmp_path / "x.jsonl", tmp_path / "store")
    assert report.complete and report.totals == {}


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


def test_a_dead_tokenizer_process_is_reported(tmp_path):
    save_tokenizer(BytesTokenizer(), tmp_path)
    rules = DocumentRules(
        text_key="text", component_key="", max_document_bytes=99, holdout=0.0, dtype="<u2"
    )
    pool = Pool(1, rules, tmp_path)
    try:
        batch = Batch("text", [(b"abc", 3, "")], "x")
        assert pool.submit(batch).result().tokens.tolist() == [97, 98, 99, 256]
        pool._processes[0].kill()
        with pytest.raises(BuildError, match="a tokenizer process died .signal 9"):
            pool.submit(batch).result()
    finally:
        pool.close()


def test_parts_double_to_the_cap():
    sizes = [part_tokens(part, first=4, cap=30) for part in range(7)]
    assert sizes == [4, 4, 8, 16, 30, 30, 30]
    assert part_tokens(10**6, first=4, cap=30) == 30


def test_words_are_runs_between_ascii_space():
    for text in ("a", " a  b\tc\n", "\x0b\x0c", "a\x08b c\x1f", "ü  é\u2028x"):
        assert count_words(text.encode()) == len(text.encode().split())


def test_a_config_and_keywords_mean_the_same(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(10))
    config = BuildConfig(sources=(str(path),), folder=str(tmp_path / "a"), holdout=0.2)
    first = data.build.build(config)
    second = data.build.build(config, folder=tmp_path / "b", tokenizer=BytesTokenizer())
    assert first.fingerprint == second.fingerprint
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
