"""The builder: bad input is accounted for, settings are held to, workers change nothing."""

import json
import os
import socket

import pytest
from sample_corpus import (
    documents,
    lines,
    small_build,
    texts_of,
    tree,
    write_jsonl,
)

from gesso.data.config import BuildConfig
from gesso.data.store import build as building
from gesso.data.store.locks import Locked
from gesso.data.store.parts import part_tokens
from gesso.data.store.workers import Pool
from gesso.data.text.documents import Batch, DocumentRules, count_words
from gesso.data.text.rejects import BuildError
from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.data.tokenizers.load import save_tokenizer


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
        ({"text_split": "word"}, "not one of file, blank_line, line"),
    ],
)
def test_wrong_settings_are_refused_first(tmp_path, fields, message):
    path = write_jsonl(tmp_path / "x.jsonl", lines(2))
    with pytest.raises(BuildError, match=message):
        small_build(path, tmp_path / "store", **fields)
    assert not (tmp_path / "store").exists()


def test_the_bytes_do_not_depend_on_workers_or_batches(tmp_path, monkeypatch):
    for shard in range(3):
        write_jsonl(tmp_path / "in" / f"{shard}.jsonl", lines(80, seed=shard))
    small_build(tmp_path / "in", tmp_path / "reference")
    want = tree(tmp_path / "reference")
    assert sum(name.endswith(".json") for name in want) > 10
    for workers, records in ((1, 1), (1, 13), (2, 5), (3, 2)):
        monkeypatch.setattr(building, "BATCH_RECORDS", records)
        folder = tmp_path / f"{workers}-{records}"
        small_build(tmp_path / "in", folder, workers=workers)
        assert tree(folder) == want


def test_closing_sources_between_parts_changes_nothing(tmp_path, monkeypatch):
    for shard in range(3):
        write_jsonl(tmp_path / "in" / f"{shard}.jsonl.gz", lines(80, seed=shard))
    small_build(tmp_path / "in", tmp_path / "reference")
    monkeypatch.setattr(building, "OPEN_SHARDS", 1)
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
            with pytest.raises(Locked) as error:
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
    first = building.build(config)
    second = building.build(config, folder=tmp_path / "b", tokenizer=BytesTokenizer())
    assert first.fingerprint == second.fingerprint
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_finished_shard_never_changes(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", lines(20))
    small_build(path, tmp_path / "store")
    with pytest.raises(BuildError, match=r"shards: x\.jsonl of size \d+, now \d+; restore"):
        small_build(write_jsonl(path, lines(25)), tmp_path / "store")


def test_the_report_is_a_table(tmp_path, capsys):
    path = write_jsonl(tmp_path / "x.jsonl", lines(20))
    report = small_build(path, tmp_path / "store")
    assert capsys.readouterr() == ("", "")
    report.show()
    shown = capsys.readouterr().err
    assert all(name in shown for name in (*report.totals, "all", "exact duplicates"))
