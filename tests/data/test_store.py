"""Reading a store: eras while it grows, many pieces at once, and finding what is damaged."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from sample_corpus import lines, small_build, tree, write_jsonl

from gesso.data import open_store
from gesso.data.store.errors import BuildFailed, StoreBehind, StoreDamaged
from gesso.data.store.parts import ERROR


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished store of three shards, one much longer, and the folder it lies in."""
    root = tmp_path_factory.mktemp("built")
    for shard, count in enumerate((40, 150, 30)):
        write_jsonl(root / "in" / f"{shard}.jsonl", [b"{bad", *lines(count, seed=shard)])
    small_build(root / "in", root / "store", reject_cap=0.1)
    return root / "store"


@pytest.fixture
def copy(built, tmp_path):
    shutil.copytree(built, tmp_path / "store")
    return tmp_path / "store"


def eras(store):
    number = 0
    while (era := store.era(number)) is not None:
        yield era
        number += 1


def test_eras_hold_every_part_and_end(built):
    store = open_store(built)
    parts = sorted(built.glob("s*/p*.json"))
    numbers = [len(list(built.glob(f"s{shard:05d}/p*.json"))) for shard in range(3)]
    found = list(eras(store))
    assert len(found) == max(numbers) > min(numbers)
    assert sum(numbers) == len(parts)
    assert store.era(len(found)) is None and store.era(len(found) + 7) is None
    read = sum(era.lengths(c, s).sum() for era in found for c in store.components for s in SPLITS)
    assert read == sum(n["tokens"] for c in store.totals().values() for n in c.values())


SPLITS = ("train", "holdout")


def test_totals_are_those_of_the_texts(built):
    store = open_store(built)
    made = [
        json.loads(line) for shard, n in enumerate((40, 150, 30)) for line in lines(n, seed=shard)
    ]
    for name, splits in store.totals().items():
        texts = [x["text"].encode() for x in made if x["meta"]["pile_set_name"] == name]
        both = {u: sum(splits[s][u] for s in SPLITS) for u in splits["train"]}
        assert both == {
            "documents": len(texts),
            "tokens": sum(len(text) + 1 for text in texts),
            "bytes": sum(map(len, texts)),
            "words": sum(len(text.split()) for text in texts),
        }
    assert store.rejects() == {"bad_json": 3}


def test_many_pieces_are_read_as_one_by_one(built):
    store = open_store(built)
    rng = np.random.default_rng(0)
    for era in eras(store):
        for component in (*store.components, "absent"):
            for split in SPLITS:
                total = era.tokens(component, split)
                assert total == era.lengths(component, split).sum()
                whole = era.read(component, split, np.array([0]), np.array([total]))
                assert len(whole) == total
                # Pieces of any length, also empty ones and ones over the seams between shards.
                starts = rng.integers(0, total + 1, 200)
                lengths = (rng.random(200) ** 3 * (total - starts)).astype(np.int64)
                found = era.read(component, split, starts, lengths)
                want = [whole[a : a + n] for a, n in zip(starts, lengths, strict=True)]
                assert found.dtype == store.dtype
                np.testing.assert_array_equal(found, np.concatenate(want))


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 10**9), (5, -1)])
def test_pieces_outside_are_refused(built, start, length):
    era = open_store(built).era(0)
    with pytest.raises(IndexError, match="lies outside"):
        era.read("Github", "train", np.array([start]), np.array([length]))


def test_an_unfinished_store_says_what_it_waits_for(copy):
    last = sorted(copy.glob("s00001/p*.json"))[-1]
    number = int(last.stem[1:])
    kept = last.read_bytes()
    last.unlink()
    store = open_store(copy)
    assert not store.complete
    assert store.era(number - 1) is not None
    with pytest.raises(StoreBehind, match=rf"lacks part {number} of 1\.jsonl\. Is the builder"):
        store.era(number)
    timer = threading.Timer(0.3, lambda: last.write_bytes(kept))
    timer.start()
    assert store.era(number, wait_seconds=30) is not None
    timer.join()
    assert store.complete


@pytest.mark.parametrize("place", ["", "s00001"])
def test_an_error_of_the_builder_is_met_at_once(copy, place):
    last = sorted(copy.glob("s00001/p*.json"))[-1]
    last.unlink()
    (copy / place / ERROR).write_text(json.dumps({"message": "x.jsonl.zst is truncated"}))
    store = open_store(copy)
    assert store.era(0) is not None
    started = time.monotonic()
    with pytest.raises(BuildFailed, match=r"stopped: x\.jsonl\.zst is truncated"):
        store.era(int(last.stem[1:]), wait_seconds=60)
    assert time.monotonic() - started < 30


def test_a_reader_follows_a_builder(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(150))
    slow = threading.Thread(
        target=small_build,
        args=(path, tmp_path / "store"),
        kwargs={"step": lambda where: time.sleep(0.002)},
    )
    slow.start()
    store = open_store(tmp_path / "store", wait_seconds=30)
    seen = []
    while (era := store.era(len(seen), wait_seconds=30)) is not None:
        seen.append([era.lengths(c, "train").tolist() for c in ("Github", "Pile-CC")])
    slow.join()
    again = open_store(tmp_path / "store")
    assert seen == [
        [era.lengths(c, "train").tolist() for c in ("Github", "Pile-CC")] for era in eras(again)
    ]


def test_a_mistyped_path_is_answered_with_the_nearest(built):
    with pytest.raises(ValueError, match=rf"no token store at .*; did you mean {built}\?"):
        open_store(built.parent / "stroe")
    with pytest.raises(ValueError, match=rf"no meta\.json; did you mean {built}\?"):
        open_store(built.parent)
    with pytest.raises(ValueError, match="does not exist either"):
        open_store(built / "a" / "b")


def test_a_sound_store_has_no_problems(built):
    assert open_store(built).verify() == []


def test_every_kind_of_damage_is_found(copy):
    """Each file of the store in turn: a flipped bit, a cut end, gone."""
    whole = tree(copy)
    for name, content in whole.items():
        if name.endswith(".json") or name.startswith("tokenizer/"):
            continue
        path = copy / name
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        for damaged in (bytes(flipped), content[:-1], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            stem = name.removesuffix(".tok").removesuffix(".off")
            problems = open_store(copy).verify()
            assert len(problems) == 1 and stem in problems[0], (name, problems)
            path.write_bytes(content)


def test_a_record_that_lost_a_line_is_found(copy):
    path = copy / "s00000" / "p00000.json"
    record = json.loads(path.read_bytes())
    record["records"] += 1
    path.write_text(json.dumps(record))
    (problem,) = open_store(copy).verify()
    assert "records in, but" in problem


def test_changed_settings_are_found(copy):
    meta = json.loads((copy / "meta.json").read_bytes())
    meta["holdout"] = 0.5
    (copy / "meta.json").write_text(json.dumps(meta))
    assert open_store(copy).verify() == [f"{copy / 'meta.json'}: does not match its fingerprint"]


def test_a_cut_token_file_is_never_read(copy):
    path = copy / "s00000" / "p00000.github.tok"
    path.write_bytes(path.read_bytes()[:-2])
    era = open_store(copy).era(0)
    with pytest.raises(StoreDamaged, match=r"github\.tok: \d+ bytes, its commit record says"):
        era.read("Github", "train", np.array([0]), np.array([4]))


def test_few_mappings_are_kept(built, monkeypatch):
    monkeypatch.setattr("gesso.data.store.tokens._MAPS", 2)
    store = open_store(built)
    for era in eras(store):
        for component in store.components:
            total = era.tokens(component, "train")
            if total:
                era.read(component, "train", np.array([0]), np.array([total]))
    assert len(store._maps) <= 2


def test_large_stores_estimate_their_duplicates(built, monkeypatch):
    exact = open_store(built).duplicates()
    assert 0 < exact < 0.1
    monkeypatch.setattr("gesso.data.store.tokens._EXACT_DUPLICATES", 60)
    assert 0 <= open_store(built).duplicates() < 0.15
