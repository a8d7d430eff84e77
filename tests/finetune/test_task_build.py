"""Files of labelled examples become a store: every record an example or a reject, in its words."""

import json

import numpy as np
import pytest
from task_stores import TAGS, records_of, store_of, write_lines

from gesso.data.labelled.store import TaskStore
from gesso.data.open import open_store
from gesso.data.tokenizers.load import load_tokenizer
from gesso.finetune.labelled.build import build_task
from gesso.finetune.labelled.config import TaskConfig
from gesso.finetune.labelled.files import fields_of, names_of
from gesso.finetune.labelled.shapes import SHAPES
from gesso.finetune.labelled.words import Words, context_of, span_of


def texts_of(store, k):
    tokenizer = store.tokenizer()
    pairs = zip(store.starts[k].tolist(), store.lengths[k].tolist(), strict=True)
    return [tokenizer.decode(store.read(start, size)) for start, size in pairs]


MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\ta\tb\n"
MNLI = "index\tsentence1\tsentence2\tgold_label\n0\tp\th\tneutral\n"
WSC = {"text": "t", "target": {"span1_text": "M", "span2_text": "he"}, "label": True}
ANSWERS = [{"text": "x", "label": 1}, {"text": "y", "label": 0}]
MULTIRC = {"passage": {"text": "p", "questions": [{"question": "q", "answers": ANSWERS}]}}


def nli(label, first="premise", second="hypothesis", key="label"):
    return {first: "p", second: "h", key: label}


@pytest.mark.parametrize(
    ("task", "name", "content", "texts", "labels"),
    [
        ("sst2", "train.tsv", "sentence\tlabel\nfine \t1\nbad\t0\n", ["fine "], [1, 0]),
        ("cola", "train.tsv", "gj04\t1\t\tGood one.\ngj04\t0\t*\tGood\n", ["Good one."], [1, 0]),
        ("mrpc", "t.tsv", MRPC, ["a", "b"], [1]),
        ("mnli", "t.tsv", MNLI, ["p", "h"], [1]),
        ("qqp", "t.csv", 'id,question1,question2,is_duplicate\n1,"a, b",c,0\n', ["a, b", "c"], [0]),
        ("rte", "t.jsonl", nli("not_entailment"), ["p", "h"], [1]),
        ("cb", "t.jsonl", nli("neutral"), ["p", "h"], [2]),
        ("snli", "t.jsonl", nli(0), ["p", "h"], [0]),
        (
            "mnli",
            "t.jsonl",
            nli("neutral", "sentence1", "sentence2", "gold_label"),
            ["p", "h"],
            [1],
        ),
        ("boolq", "t.jsonl", {"question": "q", "passage": "p", "label": True}, ["q", "p"], [1]),
        (
            "wic",
            "t.jsonl",
            {"word": "w", "sentence1": "a", "sentence2": "b", "label": False},
            ["w: a", "b"],
            [0],
        ),
        ("wsc", "t.jsonl", WSC, ["t", "he: M"], [1]),
        ("multirc", "t.jsonl", MULTIRC, ["p", "q x"], [1, 0]),
    ],
)
def test_published_shapes(tmp_path, task, name, content, texts, labels):
    text = content if isinstance(content, str) else json.dumps(content) + "\n"
    (tmp_path / name).write_text(text)
    config = TaskConfig(task=task, files=(str(tmp_path / name),), holdout=0)
    store = build_task(config, tmp_path / "store")
    assert texts_of(store, 0) == texts and store.leaves["labels"].tolist() == labels
    assert store.labels == SHAPES[task].labels and store.verify() == []


def test_a_file_that_is_gone_is_reported(tmp_path):
    (tmp_path / "wsc.jsonl").write_text(json.dumps(WSC) + "\n")
    config = TaskConfig(task="wsc", files=(str(tmp_path / "wsc.jsonl"),), holdout=0)
    store = build_task(config, tmp_path / "store")
    (store.folder / "examples.jsonl").unlink()
    assert store.verify() == [
        f"{store.folder / 'examples.jsonl'}: the file is missing; build it again"
    ]


def test_numbers_and_templates(tmp_path):
    lines = [{"a": {"b": "x"}, "c": 3, "score": "2.5"}, {"a": {"b": "y"}, "c": 4, "score": 1}]
    path = write_lines(tmp_path / "t.jsonl", lines)
    config = TaskConfig(
        task="regress", files=(path,), texts=("{a.b} is {c}",), label="score", holdout=0
    )
    store = build_task(config, tmp_path / "store")
    assert texts_of(store, 0) == ["x is 3"] and store.leaves["labels"].tolist() == [2.5, 1.0]
    assert store.record["statistics"] == {"mean": 1.75, "deviation": 0.75}


def test_every_record_is_somewhere_with_its_line(tmp_path):
    good = [{"text": f"text {i}", "label": i % 2} for i in range(40)]
    path = tmp_path / "t.jsonl"
    write_lines(path, good)
    broken = ["{", '{"text": "t", "label": 7}', '{"text": " ", "label": 1}', '{"label": 1}', ""]
    path.write_text(path.read_text() + "\n".join(broken) + "\n")
    config = TaskConfig(
        task="classify", files=(str(path),), labels=("no", "yes"), reject_cap=0.2, limit=30
    )
    store = build_task(config, tmp_path / "store")
    rejects = [json.loads(x) for x in (store.folder / "rejects.jsonl").read_text().splitlines()]
    assert [each["place"].rpartition(":")[2] for each in rejects] == ["41", "45"]
    counts = store.record["counts"]
    examples = sum(store.count.values())
    assert counts["records"] == 45 == examples + counts["refused"] + counts["over_limit"]
    whole = build_task(
        TaskConfig(task="classify", files=(str(path),), labels=("no", "yes"), reject_cap=0.2),
        tmp_path / "whole",
    )
    assert whole.rejects() == {
        "bad_json": 1, "blank_line": 1, "empty_field": 1, "missing_field": 1, "unknown_label": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"4 of 45 records are bad.*t\.jsonl:41: bad_json"):
        build_task(
            TaskConfig(task="classify", files=(str(path),), labels=("no", "yes")), tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()


def test_splits_do_not_share_texts_and_stores_are_made_once(tmp_path):
    lines = [{"text": f"text {i % 50}", "label": i % 2} for i in range(100)]
    path = write_lines(tmp_path / "t.jsonl", lines)
    config = TaskConfig(task="classify", files=(path,), holdout=0.3)
    store = build_task(config, tmp_path / "store")
    split = {
        name: {texts_of(store, k)[0] for k in store.examples(name)} for name in ("train", "holdout")
    }
    assert not split["train"] & split["holdout"] and len(split["holdout"]) > 5
    assert store.duplicates() == 0.5 and store.labels == ("0", "1")
    assert open_store(store.folder).fingerprint == store.fingerprint
    again = build_task(config, tmp_path / "store")
    assert again.fingerprint == store.fingerprint
    other = TaskConfig(task="classify", files=(path,), holdout=0.2)
    with pytest.raises(ValueError, match="other examples or settings"):
        build_task(other, tmp_path / "store")
    leaky = TaskConfig(task="classify", files=(path,), heldout=(str(tmp_path / "u.jsonl"),))
    write_lines(tmp_path / "u.jsonl", lines[:3])
    assert build_task(leaky, tmp_path / "l").record["counts"]["heldout_in_training"] == 3


def test_tags_stand_at_first_tokens(tmp_path):
    conll = "-DOCSTART- -X- O O\n\nJo NNP B-X\nRay NNP I-X\nran VBD O\n\nOh UH O\n"
    (tmp_path / "t.conll").write_text(conll)
    config = TaskConfig(task="conll", files=(str(tmp_path / "t.conll"),), holdout=0)
    store = build_task(config, tmp_path / "store")
    assert texts_of(store, 0) == ["Jo Ray ran"] and store.labels == ("B-X", "I-X", "O")
    start, size = int(store.starts[0, 0]), int(store.lengths[0, 0])
    tags = store.leaves["tags"][start : start + size].tolist()
    assert tags == [0, -1, 1, -1, -1, -1, 2, -1, -1, -1]
    assert [fact["place"].rpartition(":")[2] for fact in store.facts] == ["3", "7"]


def test_answers_are_tokens_and_become_text_again(tmp_path):
    context = "Ann was (born) in Köln, 1990. She  lives there."
    asked = [("where?", "Köln", False), ("when?", "1990", False), ("why?", "", True)]
    qas = [
        {
            "id": f"{i}",
            "question": question,
            "is_impossible": none,
            "answers": [] if none else [{"text": said, "answer_start": context.index(said)}],
        }
        for i, (question, said, none) in enumerate(asked)
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}
    (tmp_path / "train.json").write_text(json.dumps(data))
    config = TaskConfig(task="squad", files=(str(tmp_path / "train.json"),), holdout=0)
    store = build_task(config, tmp_path / "store")
    for k, (_, said, _) in enumerate(asked):
        first, last = store.leaves["answers"][k].tolist()
        if not said:
            assert (first, last) == (-1, -1)
            continue
        at = int(store.starts[k, 1])
        characters = store.leaves["characters"]
        assert context[characters[at + first, 0] : characters[at + last, 1]] == said
    assert store.record["statistics"] == {"answered": 2}
    qas[0]["answers"][0]["answer_start"] += 1
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"article 1, paragraph 1, question 1: bad_answer"):
        build_task(TaskConfig(task="squad", files=(str(tmp_path / "bad.json"),)), tmp_path / "bad")


def test_words_are_the_texts_tokens():
    tokenizer = load_tokenizer("bytes")
    text = "one, two  (three) 東京 x"
    context = context_of(text, Words(tokenizer))
    assert tokenizer.decode(context.tokens) == "one, two (three) 東京 x"
    for begin, end in ((0, 3), (5, 8), (18, 19)):
        first, last = span_of(context, begin, end)
        assert context.characters[first, 0] == begin and context.characters[last, 1] == end
    assert span_of(context, 8, 9) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "sst3"}, "no task 'sst3'; did you mean 'sst2'"),
        ({"task": "classify", "texts": ("a", "b", "c")}, "one text or two, not 3"),
        ({"task": "qa", "labels": ("a", "b")}, "labels and values mean nothing to qa"),
        ({"task": "classify", "label": "lable"}, "no field 'lable'; did you mean 'label'"),
        ({"task": "tag"}, r"say --texts \(or --words\) and --label"),
        ({"task": "classify", "holdout": 1.0}, r"holdout must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, settings, message):
    path = write_lines(tmp_path / "t.jsonl", [{"text": "t", "label": "a"}] * 3)
    with pytest.raises(ValueError, match=message):
        build_task(TaskConfig(files=(path,), **settings), tmp_path / "store")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        build_task(TaskConfig(task="sst2", files=("x.tsv",)), tmp_path / "s")
    with pytest.raises(ValueError, match=r"say --format|Say --format"):
        build_task(TaskConfig(task="sst2", files=("x.data",)), tmp_path / "s")
    with pytest.raises(ValueError, match="gesso task build makes one"):
        TaskStore(tmp_path)


def test_shapes_name_fields_that_can_be_read():
    for name, shape in SHAPES.items():
        for fields in shape.fields:
            record = dict.fromkeys(names_of(fields), "x")
            assert fields_of(record, TaskConfig(task=name, files=("f",)), shape) in shape.fields
        assert not shape.values or len(shape.values) == len(shape.labels)


def test_helpers_make_every_kind(tmp_path):
    for kind in ("classify", "regress", "tag", "qa"):
        store = store_of(tmp_path, kind)
        assert store.count == {"train": 24, "holdout": 9} and store.verify() == []
        assert len(records_of(kind, 5)) == 5
    assert set(TAGS) == set(TaskStore(tmp_path / "tag-store").labels)
    assert np.array_equal(TaskStore(tmp_path / "classify-store").leaves["labels"][:3], [1, 2, 0])
